"""The verbs of evaluators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe_lab.cli import completion
from probe_lab.cli.arguments import ExperimentName, Overrides, experiment_of, out
from probe_lab.progress import progress


def score(
    experiment: ExperimentName,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="make again what is there")] = False,
    source: Annotated[
        list[Path] | None,
        typer.Option("--import", help="a CSV or parquet file of scores, by sample_id or prompt and seed"),
    ] = None,
    evaluator: Annotated[
        list[str] | None, typer.Option(help="with --import: the name that these scores get, instead of earlier ones")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="with --import: the column of the scores, default score")
    ] = None,
) -> None:
    """Score the cached images with the experiment's evaluators, or import scores. The same command resumes.

    Prompts are encoded too, where `text.encoder` is an evaluator, the previews that `probe.scalars` name, or cells
    of the model `x0_preview` need, are scored, and `labels` are made.

    Example: probe-lab score quickstart evaluators=[shapes_reward,shapes_layout]

    Example: probe-lab score quickstart --import ratings.csv --evaluator human
    """
    config = experiment_of(experiment, overrides)
    if source or evaluator or column:
        _import(config.cache_folder, source or [], evaluator or [], column or ["score"], overwrite)
        return

    from probe_lab.verbs import score_images

    score_images(config, overwrite=overwrite, watching=progress, on_note=out.print)


def _import(folder: Path, sources: list[Path], evaluators: list[str], columns: list[str], overwrite: bool) -> None:
    from probe_lab.evaluators.imported import import_scores

    if not sources or not evaluators:
        raise typer.BadParameter("--import FILE and --evaluator NAME belong together: give both")
    for name, values in (("--import", sources), ("--evaluator", evaluators), ("--column", columns)):
        if len(values) > 1:
            given = " and ".join(map(str, values))
            raise typer.BadParameter(f"{name} is given {len(values)} times ({given}): import one after the other")
    made = import_scores(folder, sources[0], evaluators[0], column=columns[0], overwrite=overwrite)
    out.print(f"{evaluators[0]}: {made.text}; name it in `evaluators` ({folder / 'scores'})")


def list_evaluators(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT]", autocompletion=completion.experiments)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """List every evaluator: what it measures, its range, model and licence, and whether its weights are here.

    Example: probe-lab evaluators quickstart
    """
    from probe_lab.evaluators import evaluator_listing as listing

    config = experiment_of(experiment, overrides) if experiment else None
    out.print(listing.evaluators_table(listing.list_evaluators(config)))
