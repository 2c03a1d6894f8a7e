"""The verbs that train probes and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe_lab.cli import completion
from probe_lab.cli.arguments import ExperimentName, Overrides, experiment_of, is_folder, out, runs_folders
from probe_lab.progress import progress


def train(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """Train one probe, the one that the experiment's `probe` section describes.

    Example: probe-lab train quickstart probe.step=3 probe.loss=mse
    """
    config = experiment_of(experiment, overrides)

    from probe_lab.compare import comparison_table
    from probe_lab.verbs import train_probe

    out.print(comparison_table(config.runs_folder, cells=[train_probe(config).name]))


def judge(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """Train picture judges on the labels of the cache, and let them score every sample. The same command resumes.

    Cells with `probe.judge=true` read what they say. Labels come first: `labels` in the experiment, then `score`.

    Example: probe-lab judge quickstart judge.seeds=3
    """
    from probe_lab.verbs import train_judges

    train_judges(experiment_of(experiment, overrides), watching=progress, on_note=out.print)


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
    config = experiment_of(experiment, overrides)

    from probe_lab.sweep import run_sweep
    from probe_lab.sweep.plan import plan_sweep
    from probe_lab.sweep.plan_table import plan_listing

    if dry_run:
        out.print(plan_listing(plan_sweep(config)))
        return
    summary = run_sweep(config)
    out.print(summary.text)
    if summary.failed:
        raise typer.Exit(1)


def track(experiment: ExperimentName, overrides: Overrides = None) -> None:
    """Send to MLflow what it lacks of the experiment's finished cells, failures and report.

    A sweep and a report do so by themselves. This is for when the server was away, has lost its data, or is another
    one. It may be run at any time, and sends nothing twice.

    Example: probe-lab track quickstart tracking.uri=http://tracking.example.org:5000
    """
    from probe_lab.verbs import track

    tracked = track(experiment_of(experiment, overrides))
    out.print(tracked.text)


def compare(
    experiments: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT... [KEY=VALUE]...",
            help="names, or folders such as runs/NAME",
            autocompletion=completion.experiments,
        ),
    ],
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
    """Print the cells of experiments as a table, best first; the MLflow UI shows the same runs and names.

    Example: probe-lab compare quickstart --metric selection_gain --filter 'step in [5, 8] and loss != "mse"'

    Example: probe-lab compare quickstart --best step --seeds

    Example: probe-lab compare quickstart --diff 18fe4d2e 'model == "linear" and step == 8'

    Example: probe-lab compare quickstart quickstart_sd3 runs/earlier --best experiment
    """
    from probe_lab.compare import Query, words
    from probe_lab.compare.command import answer
    from probe_lab.runs import Runs
    from probe_lab.sweep.tap_patterns import TapNames

    overrides = [word for word in experiments if "=" in word]
    names = [word for word in experiments if "=" not in word]
    if not names:
        raise typer.BadParameter("no experiment is named: give a name, or the runs folder of one")
    first = None if is_folder(names[0]) else experiment_of(names[0], overrides)
    folders = [first.runs_folder if first else Path(names[0]), *runs_folders(names[1:], overrides)]
    query = Query(
        metrics=words(metric),
        evaluators=words(evaluator),
        splits=words(split) or ("test",),
        where=where,
        sets=TapNames(first) if first else None,
        seeds=seeds,
        group=words(group),
        best=words(best),
        sort=sort,
        limit=limit,
    )
    answer(Runs(*folders), query, out, diff=diff, files={"csv": csv, "json": json, "markdown": markdown})
