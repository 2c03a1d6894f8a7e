"""Which loss to train with, from the cells that the sweep of `experiments/loss_study.yaml` left in `runs/loss_study`.

`python -m benchmarks.losses [--runs FOLDER] [--json FILE]`. Prints the sentence and the Markdown table that the part
"Which loss?" of the report has too: the loss is chosen on validation prompts, all other numbers are of test prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.output import show
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.objectives import METRICS, SELECTION, LossesCompared, LossSetting, Study, study, verdict
from probe_lab.report.analysis.results import Value
from probe_lab.report.sections.which_loss import summary_table


def measure(runs: Path) -> dict[str, object]:
    """The whole comparison, as `--json` writes it; differences by the label of what is taken away."""
    results = load_results(runs)
    parts = [results, *results.elsewhere]
    common = [name for name in results.evaluators if all(name in part.evaluators for part in parts)]
    found = study(parts, common)
    if found is None:
        raise SystemExit(f"error: {runs} has no two losses that were trained alike: sweep experiments/loss_study.yaml")
    return {
        "benchmark": "losses",
        "cells": sum(len(part.cells) for part in parts),
        "failed": len(results.failures),
        "cell_seconds": float(sum(part.cells["seconds"].sum() for part in parts)),
        "training_seeds": list(found.seeds),
        "left_out": list(found.left_out),
        "recommended": found.recommended.label,
        "sentence": verdict(found),
        "losses": {one.label: _summary(found, one) for one in found.objectives},
        "pairs": [_pair(found, pair) for pair in found.pairs],
        "markdown": summary_table(found).markdown(),
    }


def _summary(found: Study, one: LossSetting) -> dict[str, object]:
    return {
        "validation": found.validation(one),
        **{metric: _numbers(found.value(one, metric)) for metric in METRICS},
        "minus": {
            other.label: {metric: _numbers(found.minus(one, other, metric)) for metric in METRICS}
            for other in found.references.values()
        },
        "minus_recommended": _numbers(found.minus(one, found.recommended, SELECTION)),
        "mean_rank": found.rank(one),
        "apart_from_best": found.apart(one),
    }


def _pair(found: Study, pair: LossesCompared) -> dict[str, object]:
    return {
        "backbone": pair.origin,
        "evaluator": pair.evaluator,
        "place": pair.place,
        "prompts": pair.prompts,
        "best": pair.best.label,
        "losses": {
            one.label: {
                "validation": pair.outcomes[one].validation,
                **{metric: _numbers(pair.value(one, metric)) for metric in METRICS},
                "minus": {
                    other.label: {metric: _numbers(pair.minus(one, other, metric)) for metric in METRICS}
                    for other in found.references.values()
                },
                "apart_from_best": pair.apart(one),
            }
            for one in found.objectives
        },
    }


def _numbers(value: Value) -> dict[str, float]:
    return {"estimate": value.estimate, "lower": value.lower, "upper": value.upper}


def table(result: dict[str, object]) -> str:
    return f"{result['sentence']}\n\n{result['markdown']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/loss_study"))
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.runs), table, arguments.json)


if __name__ == "__main__":
    main()
