"""The verb that draws what came out."""

from __future__ import annotations

from typing import Annotated

import typer

from probe_lab.cli import completion
from probe_lab.cli.arguments import ExperimentName, Overrides, experiment_of, out, runs_folders
from probe_lab.progress import progress


def report(
    experiment: ExperimentName,
    overrides: Overrides = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="another swept experiment to show side by side; repeatable",
            autocompletion=completion.experiments,
        ),
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
    others = [] if config.paper.exhibit else runs_folders(beside or [], overrides or [])
    notes: list[str] = []
    with progress("report", "parts") as update:
        page = write_report(config, beside=others, on_progress=update, on_note=notes.append)
    out.print(f"report: {page}")
    for note in notes:
        out.print(note)
