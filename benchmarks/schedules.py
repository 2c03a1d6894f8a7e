"""Several cuts against one at no more denoiser calls, and the gain of one cut, on all test prompts of an experiment.

`python -m benchmarks.schedules [--experiment selection] [--candidates 4 5 8] [--json FILE]`

It reads what the cells of `probe-lab sweep` predicted. The probe of the single cut, at `probe.step`, is the best on
validation prompts of those that read arrays alone; the schedule is the best on validation prompts, with the same probe
at the other steps, within the calls of the single cut. Both then select on the test prompts, among every set of so many
of a prompt's seeds; intervals are paired, over prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.output import show
from probe_lab.config import load_experiment
from probe_lab.metrics.bootstrap import Interval, PromptRatio, mean_over, resample
from probe_lab.metrics.per_prompt import Floats
from probe_lab.runs.files import PREDICTIONS
from probe_lab.selection.budget import CutPlan, calls_of, candidate_sets
from probe_lab.selection.budget_schedule import plan_for
from probe_lab.selection.trained_cells import at_other_steps, best_cell
from probe_lab.tradeoff.policies import Places, Stage, kept_scores

RESAMPLES, SEED = 4000, 0
TARGETS = {"gain": 0.45, "difference": 0.0}


def measure(name: str, numbers: Sequence[int]) -> dict[str, object]:
    """For each number of candidates: the schedule, the calls of both, the difference and both gains."""
    experiment = load_experiment(name)
    evaluator, step, steps = experiment.probe_evaluators[0], experiment.probe.step, experiment.sampling.steps
    cell = best_cell(experiment, evaluator, previews=False)
    cells = at_other_steps(cell)
    tables = {at: _test_rows(folder, evaluator) for at, folder in cells.items()}
    target = _by_prompt(tables[step], "target")
    predictions = {at: _by_prompt(table, "prediction") for at, table in tables.items()}
    draws = resample(len(target), RESAMPLES, SEED)
    rows = []
    for candidates in numbers:
        one: CutPlan = ((step, 1),)
        budget = calls_of(one, candidates, steps)
        plan = plan_for(cells, evaluator, candidates=candidates, keep=1, steps=steps, budget=budget).plan
        sets = candidate_sets(target.shape[1], candidates)
        places = np.broadcast_to(sets, (len(target), *sets.shape))
        kept = {way: _kept(way, predictions, target, places) for way in (one, plan)}
        best, mean = kept_scores(target, [Stage(target, 1)], places), target.mean(1)
        difference = kept[plan] - kept[one]
        rows.append(
            {
                "candidates": candidates,
                "schedule": ",".join(f"{at}:{keep}" for at, keep in plan),
                "calls": [calls_of(plan, candidates, steps), budget],
                "difference": _described(_mean(difference, draws)),
                "gain": _described(_ratio(kept[plan] - mean, best - mean, draws)),
                "gain_of_one_cut": _described(_ratio(kept[one] - mean, best - mean, draws)),
            }
        )
    return {
        "benchmark": "schedules",
        "experiment": name,
        "evaluator": evaluator,
        "prompts": len(target),
        "cells": [folder.name for folder in cells.values()],
        "rows": rows,
        "targets": TARGETS,
    }


def _kept(plan: CutPlan, predictions: Mapping[int, Floats], target: Floats, places: Places) -> Floats:
    return kept_scores(target, [Stage(predictions[at], keep) for at, keep in plan], places)


def _test_rows(cell: Path, evaluator: str) -> pd.DataFrame:
    table = pd.read_parquet(cell / PREDICTIONS)
    rows = table[(table["split"] == "test") & (table["evaluator"] == evaluator)]
    return rows.sort_values(["prompt_id", "sample_id"])


def _by_prompt(rows: pd.DataFrame, column: str) -> Floats:
    """[prompts, seeds]: in these caches every seed has its score."""
    return np.asarray(rows[column], dtype=np.float64).reshape(rows["prompt_id"].nunique(), -1)


def _mean(values: Floats, draws: Floats) -> Interval:
    return mean_over(values, np.zeros(len(values), np.bool_), "difference").interval(draws, 0.95)


def _ratio(values: Floats, whole: Floats, draws: Floats) -> Interval:
    """Selection gain: Σ values over Σ whole."""
    return PromptRatio(values, whole, np.zeros(len(values), np.bool_), "gain").interval(draws, 0.95)


def _described(found: Interval) -> dict[str, float]:
    return {"estimate": found.estimate, "lower": found.lower, "upper": found.upper}


def table(result: dict[str, Any]) -> str:
    lines = [f"{result['experiment']}: {result['prompts']} test prompts, {result['evaluator']}, {result['cells'][0]} …"]
    for row in result["rows"]:
        calls, other = row["calls"]
        lines.append(
            f"  N = {row['candidates']}: {row['schedule']} ({calls} calls) minus one cut ({other}): "
            f"{_text(row['difference'], '+.4f')}; gain {_text(row['gain'], '.3f')}, "
            f"of one cut {_text(row['gain_of_one_cut'], '.3f')}"
        )
    return "\n".join(lines)


def _text(found: Mapping[str, float], form: str) -> str:
    return f"{found['estimate']:{form}} [{found['lower']:{form}}, {found['upper']:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="selection")
    parser.add_argument("--candidates", type=int, nargs="+", default=[4, 5, 6, 8])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.experiment, arguments.candidates), table, arguments.json)


if __name__ == "__main__":
    main()
