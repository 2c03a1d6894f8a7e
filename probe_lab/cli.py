"""The verbs. Each one reads an experiment, calls its room and prints what came out; there is no logic here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from probe_lab import __version__
from probe_lab.config import Experiment, load_experiment
from probe_lab.console import PlainConsole, visible
from probe_lab.errors import ProbeLabError
from probe_lab.progress import progress
from probe_lab.scarcity import scarcity

app = typer.Typer(
    name="probe-lab",
    help="Predict how good a diffusion model's image will be from its own early attention and activations.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cache_app = typer.Typer(help="Look at a cache: what it holds, and whether it is intact.")
app.add_typer(cache_app, name="cache")

ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="a YAML file, or its name in experiments/")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="keys set for this run")]
INTERRUPTED = 130
RESUMED = {"generate", "score", "sweep", "train", "tradeoff", "demo"}
"""Verbs that keep what they have done so far."""
out = PlainConsole(soft_wrap=True)


@app.command()
def plan(
    experiment: ExperimentName,
    overrides: Overrides = None,
    tflops: Annotated[
        float, typer.Option(help="10¹² operations per second and card, for a model whose weights are not here")
    ] = 400.0,
) -> None:
    """Print images, bytes per (step, tap), total and time of a generation, before it starts.

    A published model without its weights is planned from its architecture: exact bytes, and hours at a rate. The
    default rate is an H100's at 40 % of its dense bfloat16 peak.

    Example: probe-lab plan paper/diffusion_probe_sdxl --tflops 300
    """
    from probe_lab.capture.dry import planned
    from probe_lab.capture.plan import plan_table
    from probe_lab.capture.prompt_notes import notes_of, prompts_at_hand
    from probe_lab.evaluators.scorable import unscorable_note

    config = load_experiment(experiment, overrides)
    out.print(plan_table(planned(config, tflops)))
    chosen = prompts_at_hand(config)
    if chosen is not None:
        for line in filter(None, (*notes_of(chosen, config), unscorable_note(config, chosen.prompts))):
            out.print(line)


@app.command()
def taps(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """List every tap of the experiment's backbone with its shape and what it weighs in the cache.

    Of a published model whose weights are not here, this is computed from its architecture.

    Example: probe-lab taps quickstart_sd3
    """
    from probe_lab.capture.listing import computed_note, list_taps, taps_table

    config = load_experiment(experiment, overrides)
    size = f"{config.sampling.height}×{config.sampling.width}"
    title = f"{config.backbone.label} at {size}, {config.cache.dtype}; kB per image and step"
    out.print(taps_table(list_taps(config), title, computed_note(config)))


@app.command()
def generate(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """Generate the images and cache the tensors. The same command resumes what was interrupted.

    Example: probe-lab generate quickstart capture.steps=[3,5]
    """
    from probe_lab.capture.generate import generate as fill
    from probe_lab.capture.plan import plan_table
    from probe_lab.capture.prompt_notes import notes_of
    from probe_lab.capture.prompts import collect_prompts
    from probe_lab.evaluators.scorable import require_scorable

    config = load_experiment(experiment, overrides)
    chosen = collect_prompts(config.prompts, config.seed)
    require_scorable(config, chosen.prompts)
    for line in notes_of(chosen, config):
        out.print(line)
    with progress("generate", "images") as update:
        fill(config, update, lambda made: out.print(plan_table(made)))
    out.print(f"images and tensors: {config.cache_folder}")


@app.command()
def score(
    experiment: ExperimentName,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="score again what has scores")] = False,
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

    Prompts are encoded too, where `text.encoder` is an evaluator, and the previews that `probe.scalars` name, or cells
    of the model `x0_preview` need, are scored.

    Example: probe-lab score quickstart evaluators=[shapes_reward,shapes_layout]

    Example: probe-lab score quickstart --import ratings.csv --evaluator human
    """
    config = load_experiment(experiment, overrides)
    folder = config.cache_folder
    if source or evaluator or column:
        _import(folder, source or [], evaluator or [], column or ["score"], overwrite)
        return

    from probe_lab.cache import Cache
    from probe_lab.cache.manifest import manifest_path
    from probe_lab.evaluators.encode import encode_texts
    from probe_lab.evaluators.run import check_names, score_cache
    from probe_lab.evaluators.scorable import require_scorable
    from probe_lab.sweep.previews import make_previews

    check_names(folder, config.evaluators, config.scoring)
    if manifest_path(folder).exists():  # without a cache, what the names lack is said first
        require_scorable(config, Cache(folder).samples["prompt"].unique().tolist())
    if encode_texts(folder, config.text.encoder, config.scoring, overwrite=overwrite):
        out.print(f"text embeddings: {folder / 'text'}/{config.text.encoder}.safetensors")
    with progress("score", "images") as update:
        summary = score_cache(
            folder,
            config.evaluators,
            scoring=config.scoring,
            overwrite=overwrite,
            workers=config.workers,
            engine=config.engine,
            on_progress=update,
        )
    out.print(f"{summary.text} ({folder / 'scores'})")
    for line in make_previews(config, overwrite=overwrite, watching=progress):
        out.print(line)


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


@app.command("evaluators")
def list_evaluators(
    experiment: Annotated[str | None, typer.Argument(metavar="[EXPERIMENT]")] = None, overrides: Overrides = None
) -> None:
    """List every evaluator: what it measures, its range, model and licence, and whether its weights are here.

    Example: probe-lab evaluators quickstart
    """
    from probe_lab.evaluators import listing

    config = load_experiment(experiment, overrides) if experiment else None
    out.print(listing.evaluators_table(listing.list_evaluators(config)))


@app.command()
def train(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """Train one probe, the one that the experiment's `probe` section describes.

    Example: probe-lab train quickstart probe.step=3 probe.loss=mse
    """
    from probe_lab.sweep import run_sweep, single_cell
    from probe_lab.sweep.compare import comparison_table

    config = single_cell(load_experiment(experiment, overrides))
    summary = run_sweep(config)
    out.print(comparison_table(config.runs_folder, cells=summary.cells))


@app.command()
def sweep(
    experiment: ExperimentName,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the cells, what they read and how long they take, and stop")
    ] = False,
) -> None:
    """Train every cell of the experiment's sweep. Finished cells are skipped, a failing one does not stop the others.

    Exit code 1 when a cell failed: the same command tries it again.

    Example: probe-lab sweep quickstart trainer.max_epochs=20

    Example: probe-lab sweep quickstart sweep.select='step in [5, 8] and loss != "mse"' --dry-run
    """
    from probe_lab.sweep import run_sweep
    from probe_lab.sweep.plan import plan_sweep

    config = load_experiment(experiment, overrides)
    if dry_run:
        out.print(plan_sweep(config).table)
        return
    summary = run_sweep(config)
    out.print(summary.text)
    if summary.failed:
        raise typer.Exit(1)


@app.command()
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
    from probe_lab.report import build_report
    from probe_lab.tracking import log_report

    config = load_experiment(experiment, overrides)
    if config.paper.exhibit:
        _exhibit(config)
        return
    notes: list[str] = []
    with progress("report", "parts") as update:
        page = build_report(
            runs=config.runs_folder,
            cache=config.cache_folder,
            out=config.report_folder,
            title=config.name,
            evaluators=config.probe_evaluators,
            scored=config.evaluators,
            primary_step=config.probe.step,
            others={other.name: other.runs_folder for other in _beside(beside or [], overrides or [])},
            on_progress=update,
            on_note=notes.append,
        )
    log_report(config, config.report_folder)
    out.print(f"report: {page}")
    for note in notes:
        out.print(note)


def _beside(names: list[str], overrides: list[str]) -> list[Experiment]:
    """Other experiments lie where the overrides say that this one does; all other keys are their own."""
    places = [text for text in overrides if text.partition("=")[0] in ("runs", "cache.root", "reports")]
    return [load_experiment(name, places) for name in names]


def _exhibit(config: Experiment) -> None:
    from probe_lab.report.papers import build_exhibit
    from probe_lab.tracking import log_report

    page = build_exhibit(
        config.paper.exhibit,
        runs=config.runs_folder,
        out=config.report_folder,
        title=config.name,
        evaluators=config.probe_evaluators,
        primary_step=config.probe.step,
        model=config.backbone.label,
        steps=config.sampling.steps,
    )
    log_report(config, config.report_folder)
    out.print(f"report: {page}")


@app.command()
def compare(
    experiment: ExperimentName,
    overrides: Overrides = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="srcc_within (default), selection_gain, srcc, ktc, auc, ...; repeatable")
    ] = None,
    evaluator: Annotated[list[str] | None, typer.Option(help="only this one; repeatable")] = None,
    split: Annotated[list[str] | None, typer.Option(help="test (default) or val; repeatable")] = None,
    where: Annotated[str, typer.Option("--filter", help="only cells for which an expression of keys holds")] = "",
    seeds: Annotated[bool, typer.Option("--seeds", help="average the training seeds of a cell")] = False,
    group: Annotated[list[str] | None, typer.Option(help="means per value of a key; repeatable")] = None,
    best: Annotated[
        list[str] | None, typer.Option(help="per value of a key the cell that is best on validation; repeatable")
    ] = None,
    sort: Annotated[str, typer.Option(help="a column, key, metric or evaluator; numbers best first")] = "",
    limit: Annotated[int | None, typer.Option(help="rows to show, 20 in a terminal; 0 for all")] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="A − B with a paired interval: parts of cell names, or filters"),
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="write the table; - is standard output")] = None,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="the same as JSON records")] = None,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="the same as Markdown")] = None,
) -> None:
    """Print the cells of an experiment as a table, best first; the MLflow UI shows the same runs and names.

    Example: probe-lab compare quickstart --metric selection_gain --filter 'step in [5, 8] and loss != "mse"'

    Example: probe-lab compare quickstart --best step --seeds

    Example: probe-lab compare quickstart --diff 18fe4d2e 'model == "linear" and step == 8'
    """
    from probe_lab.sweep.compare import Query, words
    from probe_lab.sweep.compare.command import answer
    from probe_lab.sweep.taps import TapNames

    config = load_experiment(experiment, overrides)
    query = Query(
        metrics=words(metric),
        evaluators=words(evaluator),
        splits=words(split) or ("test",),
        where=where,
        sets=TapNames(config),
        seeds=seeds,
        group=words(group),
        best=words(best),
        sort=sort,
        limit=limit,
    )
    answer(config.runs_folder, query, out, diff=diff, files={"csv": csv, "json": json, "markdown": markdown})


@app.command()
def select(
    experiment: ExperimentName,
    overrides: Overrides = None,
    prompt: Annotated[list[str] | None, typer.Option(help="what to draw; repeatable")] = None,
    candidates: Annotated[int | None, typer.Option("-n", "--candidates", help="images that start per prompt")] = None,
    keep: Annotated[int | None, typer.Option("-k", "--keep", help="images that are finished per prompt")] = None,
    folder: Annotated[Path | None, typer.Option("-o", "--out", help="default: selections/<experiment>")] = None,
    seed: Annotated[int | None, typer.Option(help="of all candidates' seeds; default: the experiment's")] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(metavar="CELL", help="a cell's folder or part of its name; default: the best cnn at probe.step"),
    ] = None,
    by: Annotated[str | None, typer.Option(help="an evaluator, weights a=0.7,b=0.3, or pareto")] = None,
    schedule: Annotated[
        str | None, typer.Option(metavar="STEP:KEEP,...", help="several cuts, 2:6,5:3,10:1 for instance")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(metavar="CALLS", help="denoiser calls per prompt; the best schedule for them is taken")
    ] = None,
    accept: Annotated[float | None, typer.Option(hidden=True)] = None,
    score: Annotated[
        bool, typer.Option("--score", help="score finished images by the experiment's evaluators")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="finish the pruned candidates too, to see what was thrown away")
    ] = False,
) -> None:
    """Draw prompts with early pruning: many candidates start, a probe reads them early, the promising ones finish.

    Leaves the kept images, sheet.png with every candidate, and selection.json with every number.

    Example: probe-lab select quickstart --prompt "a red circle left of a blue square" -n 8 --score --all

    Example: probe-lab select quickstart --prompt "a green cross" -n 8 --schedule 1:6,3:3,5:1
    """
    from probe_lab.select.command import Request, run
    from probe_lab.select.watch import watching
    from probe_lab.select.words import overrides_of

    if not prompt:
        raise typer.BadParameter('--prompt "..." is missing: say what to draw')
    keys = overrides_of(candidates=candidates, keep=keep, schedule=schedule, budget=budget, by=by)
    if accept is not None:
        keys.append(f"select.accept={accept}")  # is no key any more, as its error says
    config = load_experiment(experiment, [*(overrides or []), *keys])
    request = Request(prompt, folder, seed, probe or [], score, everything)
    made = run(config, request, watching=watching, tell=lambda line: out.print(line))
    out.print(made.table)
    for line in made.lines:
        out.print(line)
    out.print(f"images, sheet.png and selection.json: {made.out}")


@app.command()
def tradeoff(
    experiment: ExperimentName,
    overrides: Overrides = None,
    probe: Annotated[
        str, typer.Option(metavar="CELL", help="a folder or part of a name; default: the best cnn at probe.step")
    ] = "",
) -> None:
    """Measure on test prompts what each way of selecting gives for what it costs: random seed, best of N, fewer steps,
    previews, probe, several cuts, the cascade. `report` draws it.

    All candidates are generated once, in caches of their own; the same command continues.

    Example: probe-lab tradeoff shapes_full

    Example: probe-lab tradeoff quickstart tradeoff.prompts=20 tradeoff.candidates=[2,8] tradeoff.timed=[8]
    """
    from probe_lab.capture.plan import plan_table
    from probe_lab.select.tradeoff.measure import measure
    from probe_lab.select.tradeoff.summary import lines_of, rows_table

    config = load_experiment(experiment, overrides)
    made = measure(config, probe, watching=progress, announce=lambda plan: out.print(plan_table(plan)))
    out.print(rows_table(made))
    for line in lines_of(made):
        out.print(line)
    out.print(f"`probe-lab report {experiment}` draws it; files: {config.runs_folder}/tradeoff*.parquet")


@app.command()
def demo(overrides: Overrides = None) -> None:
    """The whole corridor on the shapes world, generate to select, in about ten minutes on two cores.

    Example: probe-lab demo prompts.count=100
    """
    for verb in (generate, score, sweep, compare, report):
        out.rule(f"probe-lab {verb.__name__} quickstart")
        verb("quickstart", list(overrides or []))
    out.rule("probe-lab select quickstart")
    prompts = ["a red circle left of a blue square", "a yellow triangle above a green cross"]
    select("quickstart", list(overrides or []), prompts, candidates=8, score=True, everything=True)


@cache_app.command("info")
def cache_info(
    path: Annotated[Path, typer.Argument(help="a cache folder, data_cache/quickstart for instance")],
) -> None:
    """Print what a cache holds.

    Example: probe-lab cache info data_cache/quickstart
    """
    from probe_lab.cache.describe import info_table

    out.print(info_table(path))


@cache_app.command("verify")
def cache_verify(path: Annotated[Path, typer.Argument(help="a cache folder")]) -> None:
    """Check every file of a cache. Exit code 1 when something is wrong, with the file and the row.

    Example: probe-lab cache verify data_cache/quickstart
    """
    from probe_lab.cache import Manifest, verify

    Manifest.load(path)  # a folder that is no cache, or of another format version, is an error and not damage
    problems = verify(path)
    for problem in problems:
        row = "" if problem.row is None else f", row {problem.row}"
        out.print(f"{problem.file}{row}: {problem.message}")
    out.print(f"{len(problems)} problems" if problems else "no problems")
    raise typer.Exit(1 if problems else 0)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    if version:
        out.print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Entry point: errors of ours, and what the machine lacks, are one line on stderr and exit code 2, unless
    ``--debug`` asks for the traceback."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
    except ProbeLabError as error:
        if debug:
            raise
        fail(str(error))
    except TyperException as error:  # wrong usage: its text may be followed by a hint on lines of their own
        fail(getattr(error, "format_message", error.__str__)())
    except Exception as error:
        lacking = scarcity(error)
        if debug or not lacking:
            raise
        fail(f"{lacking}; then run the same command again")
    if code == INTERRUPTED:  # typer turns Ctrl-C into this exit code
        resumes = not {*arguments[:1]} - RESUMED
        print(f"\ninterrupted{': the same command continues where it stopped' if resumes else ''}", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str) -> None:
    """Print one line, whatever the message quotes, and leave with exit code 2."""
    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)
