"""The verbs of early pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe_lab.cli.arguments import ExperimentName, Overrides, experiment_of, out
from probe_lab.progress import progress


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
        typer.Option(
            metavar="CELL", help="a cell's folder, part of its name, or shipped; default: the best cnn at probe.step"
        ),
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
    from probe_lab.selection.live_view import watching
    from probe_lab.selection.select_command import SelectRequest, run
    from probe_lab.selection.short_forms import overrides_of

    if not prompt:
        raise typer.BadParameter('--prompt "..." is missing: say what to draw')
    keys = overrides_of(candidates=candidates, keep=keep, schedule=schedule, budget=budget, by=by)
    if accept is not None:
        keys.append(f"select.accept={accept}")  # is no key any more, as its error says
    config = experiment_of(experiment, [*(overrides or []), *keys])
    request = SelectRequest(prompt, folder, seed, probe or [], score, everything)
    made = run(config, request, watching=watching, tell=lambda line: out.print(line))
    out.print(made.table)
    for line in made.lines:
        out.print(line)
    out.print(f"images, sheet.png and selection.json: {made.out}")


def tradeoff(
    experiment: ExperimentName,
    overrides: Overrides = None,
    probe: Annotated[
        str,
        typer.Option(metavar="CELL", help="`shipped`, a folder or part of a name; default: the best at probe.step"),
    ] = "",
) -> None:
    """Measure on test prompts what each way of selecting gives for what it costs: random seed, best of N, fewer steps,
    previews, probe, several cuts, the cascade, and plans for a number of denoiser calls. `report` draws it.

    All candidates are generated once, in caches of their own; the same command continues.

    Example: probe-lab tradeoff shapes_full

    Example: probe-lab tradeoff quickstart tradeoff.prompts=20 tradeoff.candidates=[2,8] tradeoff.timed=[8]
    """
    config = experiment_of(experiment, overrides)

    from probe_lab.generation.measured_plan import plan_table
    from probe_lab.tradeoff.measure import measure
    from probe_lab.tradeoff.terminal_summary import lines_of, rows_table, where_it_is

    made = measure(config, probe, watching=progress, announce=lambda plan: out.print(plan_table(plan)))
    out.print(rows_table(made))
    for line in lines_of(made):
        out.print(line)
    out.print(where_it_is(experiment, config.runs_folder))
