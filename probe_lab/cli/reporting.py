"""The verb that draws what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from probe_lab.cli.arguments import ExperimentName, Overrides, experiment_of, out
from probe_lab.progress import progress

if TYPE_CHECKING:
    from probe_lab.config import Experiment


def report(
    experiment: ExperimentName,
    overrides: Overrides = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="another swept experiment to show side by side with this one; repeatable")
    ] = None,
) -> None:
    """Draw the figures and tables of a finished sweep, and one HTML page with all of them; or, with `paper.exhibit`,
    one table or figure of a paper beside its published numbers. Overrides of `runs`, `cache.root` and `reports` are
    those of the experiments of `--beside` too.

    Without the cache, or where one of its files is damaged, the figures that need it are left out, and named.

    Example: probe-lab report quickstart_sd3 --beside quickstart

    Example: probe-lab report paper/dp_table_prediction
    """
    from probe_lab.verbs import write_report

    config = experiment_of(experiment, overrides)
    others = [] if config.paper.exhibit else _beside(beside or [], overrides or [])
    notes: list[str] = []
    with progress("report", "parts") as update:
        page = write_report(config, beside=others, on_progress=update, on_note=notes.append)
    out.print(f"report: {page}")
    for note in notes:
        out.print(note)


def _beside(names: list[str], overrides: list[str]) -> list[Experiment]:
    """Other experiments lie where the overrides say that this one does; all other keys are their own."""
    places = [text for text in overrides if text.partition("=")[0] in ("runs", "cache.root", "reports")]
    return [experiment_of(name, places) for name in names]
