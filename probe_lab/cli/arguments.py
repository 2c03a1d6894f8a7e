"""What all verbs share: how an experiment is named on the command line, and the console that they print on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from probe_lab.console import PlainConsole

if TYPE_CHECKING:
    from probe_lab.config import Experiment

ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="a YAML file, or its name in experiments/")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="keys set for this run")]
out = PlainConsole(soft_wrap=True)


def experiment_of(name: str, overrides: list[str] | None = None) -> Experiment:
    """``load_experiment``, imported only when a verb runs: ``--help`` needs no reader of YAML."""
    from probe_lab.config import load_experiment

    return load_experiment(name, overrides)
