"""The stages of an experiment as functions: what the command line calls, and Python code by ``import probe_lab``.

Each takes an ``Experiment``, resumes what was interrupted and returns what it made. Progress and notes go to the
functions that it is given; a training alone shows its own progress, on stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from probe_lab.config import Experiment
from probe_lab.progress import OnProgress, Watching, unwatched

if TYPE_CHECKING:
    from probe_lab.cache import Cache
    from probe_lab.evaluators.scoring_run import ScoreSummary
    from probe_lab.generation.measured_plan import Plan
    from probe_lab.sweep import Cell
    from probe_lab.tracking import Tracked

OnNote = Callable[[str], None]
"""Called with one line for people at a time."""


def generate_images(
    experiment: Experiment,
    *,
    on_progress: OnProgress = lambda done, total: None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_note: OnNote = lambda line: None,
) -> Cache:
    """Generate the experiment's images, capture its taps, and return the cache that holds both.

    ``on_note`` is told first what became of the prompts, ``on_plan`` then how much will be generated, ``on_progress``
    the images made.

    Raises:
        ScoreError: one of the experiment's evaluators cannot score its prompts; nothing was generated.
        CacheError, CaptureError, ConfigError, KeyboardInterrupt: as :func:`probe_lab.generation.generate.generate`.
    """
    from probe_lab.cache import Cache
    from probe_lab.evaluators.scorable import require_scorable
    from probe_lab.generation.generate import generate
    from probe_lab.generation.prompt_notes import notes_of
    from probe_lab.generation.prompts import collect_prompts

    prompts = collect_prompts(experiment.prompts, experiment.seed)
    require_scorable(experiment, prompts.prompts)
    for line in notes_of(prompts, experiment):
        on_note(line)
    generate(experiment, on_progress, on_plan)
    return Cache(experiment.cache_folder)


def score_images(
    experiment: Experiment,
    *,
    overwrite: bool = False,
    watching: Watching = unwatched,
    on_note: OnNote = lambda line: None,
) -> ScoreSummary:
    """Score the cached images with the experiment's evaluators, and return what became of each.

    Prompts are encoded too where ``text.encoder`` is an evaluator, the previews that its probes read are scored, and
    ``labels`` are made. ``overwrite`` makes all of these again, once: an interrupted call is completed by the next one,
    with it or without. ``watching`` shows the progress of each part, such
    as :func:`probe_lab.progress.progress`; ``on_note`` is told what was written where.

    Raises ConfigError, ScoreError and CacheError as :func:`probe_lab.evaluators.scoring_run.score_cache` does.
    """
    from probe_lab.cache import Cache
    from probe_lab.cache.manifest import manifest_path
    from probe_lab.cache.overwriting import overwriting
    from probe_lab.evaluators.encode import encode_texts
    from probe_lab.evaluators.scorable import require_scorable
    from probe_lab.evaluators.scoring_run import check_names, score_cache
    from probe_lab.labels.label_run import make_labels
    from probe_lab.sweep.preview_needs import make_previews
    from probe_lab.sweep.score_files import files_of_score

    folder, encoder = experiment.cache_folder, experiment.text.encoder
    check_names(folder, experiment.evaluators, experiment.scoring)
    if manifest_path(folder).exists():  # without a cache, what the names lack is said first
        require_scorable(experiment, Cache(folder).samples["prompt"].unique().tolist())
    with overwriting(folder, files_of_score(experiment) if overwrite else (), asked=overwrite):
        if encode_texts(folder, encoder, experiment.scoring):
            on_note(f"text embeddings: {folder / 'text'}/{encoder}.safetensors")
        with watching("score", "images") as update:
            summary = score_cache(
                folder,
                experiment.evaluators,
                scoring=experiment.scoring,
                workers=experiment.workers,
                engine=experiment.engine,
                on_progress=update,
            )
        on_note(f"{summary.text} ({folder / 'scores'})")
        for line in make_previews(experiment, watching=watching):
            on_note(line)
        for line in make_labels(experiment, watching=watching):
            on_note(line)
    return summary


def train_judges(
    experiment: Experiment, *, watching: Watching = unwatched, on_note: OnNote = lambda line: None
) -> None:
    """Train the picture judges of the experiment on the labels of its cache, and store what they say of every sample.

    ``watching`` shows the progress of each part, as in :func:`score_images`; ``on_note`` is told what was done.

    Raises CacheError, CaptureError, ScoreError and ProbeError as :func:`probe_lab.training.judge_run.train_judges`.
    """
    from probe_lab.training import judge_run

    for line in judge_run.train_judges(experiment, watching=watching):
        on_note(line)


def train_probe(experiment: Experiment) -> Path:
    """Train the one probe that the experiment's ``probe`` section describes, and return the folder of its cell.

    The folder is what ``ProbeSelect`` and ``load_probe`` read. A probe that is trained already is not trained again.

    Raises SweepError when it cannot be trained, else as :func:`probe_lab.sweep.run.run_sweep`.
    """
    from probe_lab.sweep import run_sweep, single_cell

    summary = run_sweep(single_cell(experiment))
    return experiment.runs_folder / summary.cells[0]


def write_report(
    experiment: Experiment,
    *,
    beside: Sequence[Experiment | Path] = (),
    on_progress: OnProgress = lambda done, total: None,
    on_note: OnNote = lambda line: None,
) -> Path:
    """Draw the figures and tables of the experiment's finished cells, and return the HTML page with all of them.

    With ``paper.exhibit`` it is that one table or figure of a paper. The results of other experiments, ``beside``, or
    of their runs folders, are shown side by side with this one's. ``on_note`` is told what had to be left out, and why.
    Where the sweep was tracked, the report is attached to its run in MLflow.

    Raises ReportError as :func:`probe_lab.report.build.build_report` does.
    """
    from probe_lab.tracking import log_report

    page = _exhibit(experiment) if experiment.paper.exhibit else _report(experiment, beside, on_progress, on_note)
    log_report(experiment, lambda: _plan(experiment))
    return page


def track(experiment: Experiment) -> Tracked:
    """Send to MLflow what it lacks of the experiment's finished cells, failures and report, and return how much it was.

    A sweep and a report do this on their own; what a server that was away has missed, or lost since, it gets here.

    Raises TrackingError, ReportError and KeyboardInterrupt as :func:`probe_lab.tracking.commands.sync_runs`.
    """
    from probe_lab.tracking import sync_runs

    return sync_runs(experiment, lambda: _plan(experiment))


def _plan(experiment: Experiment) -> Sequence[Cell]:
    from probe_lab.sweep import cells
    from probe_lab.sweep.equivalent_cells import recognised

    return recognised(cells(experiment), experiment.runs_folder)


def _report(
    experiment: Experiment, beside: Sequence[Experiment | Path], on_progress: OnProgress, on_note: OnNote
) -> Path:
    from probe_lab.report import build_report
    from probe_lab.runs import Runs

    folders = [other if isinstance(other, Path) else other.runs_folder for other in beside]
    labels = Runs(experiment.runs_folder, *folders).labels
    return build_report(
        runs=experiment.runs_folder,
        cache=experiment.cache_folder,
        out=experiment.report_folder,
        title=experiment.name,
        evaluators=experiment.probe_evaluators,
        scored=experiment.evaluators,
        sections=experiment.report_sections,
        primary_step=experiment.probe.step,
        others={labels[folder]: folder for folder in folders},
        on_progress=on_progress,
        on_note=on_note,
    )


def _exhibit(experiment: Experiment) -> Path:
    from probe_lab.report.papers import build_exhibit

    return build_exhibit(
        experiment.paper.exhibit,
        runs=experiment.runs_folder,
        out=experiment.report_folder,
        title=experiment.name,
        evaluators=experiment.probe_evaluators,
        primary_step=experiment.probe.step,
        model=experiment.backbone.label,
        steps=experiment.sampling.steps,
    )
