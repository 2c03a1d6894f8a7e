"""What all verbs share: how an experiment is named on the command line, and the console that they print on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe_lab.cli import completion
from probe_lab.console import PlainConsole

if TYPE_CHECKING:
    from probe_lab.config import Experiment

ExperimentName = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT", help="a YAML file, or its name in experiments/", autocompletion=completion.experiments
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="keys set for this run")]
out = PlainConsole(soft_wrap=True)


def experiment_of(name: str, overrides: list[str] | None = None) -> Experiment:
    """``load_experiment``, imported only when a verb runs: ``--help`` needs no reader of YAML."""
    from probe_lab.config import load_experiment

    return load_experiment(name, overrides)


def is_folder(name: str) -> bool:
    """Whether a word means a runs folder instead of an experiment: it is written with a slash."""
    return "/" in name and Path(name).is_dir()


def runs_folders(names: list[str], overrides: list[str]) -> list[Path]:
    """The runs folders of further experiments, which are given by name or by that folder.

    They lie where the overrides say that the first experiment does; all other keys are their own.
    """
    places = [text for text in overrides if text.partition("=")[0] in ("runs", "cache.root", "reports")]
    return [Path(name) if is_folder(name) else experiment_of(name, places).runs_folder for name in names]
