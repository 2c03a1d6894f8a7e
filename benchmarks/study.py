"""The figures of `experiments/shapes_full.yaml`, from the results that its sweep left in `runs/shapes_full`.

`python -m benchmarks.study [--runs FOLDER] [--json FILE]`. The probe is chosen on validation prompts, training
seeds averaged; its numbers, and the baselines' beside it, are of test prompts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from benchmarks.output import show

EVALUATOR, METRIC, STEP = "shapes_reward", "srcc_within", 5
AT_LEAST = 0.30
BASELINES = ("prompt_only", "attention_entropy", "linear", "noisy_latent", "x0_preview", "shuffled_labels")


def entries(runs: Path) -> pd.DataFrame:
    """One row per finished cell and split: model, step, taps, loss, seed and the metric with its interval."""
    rows = []
    for name in sorted(pd.read_parquet(runs / "results.parquet")["cell"].unique()):
        cell = json.loads((runs / name / "metrics.json").read_text())
        for entry in cell["metrics"]:
            if entry["evaluator"] == EVALUATOR and entry["metric"] == METRIC:
                rows.append(
                    {
                        "model": cell["model"],
                        "step": cell["step"],
                        "taps": "+".join(cell["taps"]),
                        "loss": cell["loss"],
                        "seed": cell["seed"],
                        "seconds": cell["seconds"],
                    }
                    | {key: entry[key] for key in ("split", "estimate", "lower", "upper", "prompts")}
                )
    return pd.DataFrame(rows)


def measure(runs: Path) -> dict[str, object]:
    """Best probe at the step, its baselines, and the curve over steps, as `--json` writes them."""
    table = entries(runs)
    keys = ["model", "step", "taps", "loss"]
    mean = table.groupby([*keys, "split"])[["estimate", "lower", "upper"]].mean().reset_index()
    probes = mean[mean["model"] == "cnn"]
    at_step = probes[probes["step"] == STEP]
    chosen = at_step[at_step["split"] == "val"].sort_values("estimate").iloc[-1]
    test = mean[mean["split"] == "test"]

    def of(row: pd.Series) -> dict[str, object]:
        text = {key: str(row[key]) for key in ("taps", "loss")}
        return text | {key: float(row[key]) for key in ("step", "estimate", "lower", "upper")}

    same = (test["model"] == "cnn") & (test["taps"] == chosen["taps"]) & (test["loss"] == chosen["loss"])
    best = test[same & (test["step"] == STEP)].iloc[0]
    # The loss of the step grid: the one that most probes have.
    grid = (test["model"] == "cnn") & (test["loss"] == probes["loss"].mode()[0])
    curves = {
        taps: {int(row["step"]): row["estimate"] for _, row in part.sort_values("step").iterrows()}
        for taps, part in test[grid].groupby("taps")
    }
    return {
        "benchmark": "study",
        "cells": len(table) // 2,
        "prompts": {split: int(part["prompts"].max()) for split, part in table.groupby("split")},
        "cell_seconds": float(table["seconds"].sum() / 2),
        "best": of(best),
        "baselines": {
            name: of(test[test["model"] == name].iloc[0]) for name in BASELINES if (test["model"] == name).any()
        },
        "curves": curves,
        "target": AT_LEAST,
    }


def table(result: dict[str, object]) -> str:
    best, baselines, curves = result["best"], result["baselines"], result["curves"]
    assert isinstance(best, dict)
    assert isinstance(baselines, dict)
    assert isinstance(curves, dict)
    prompts = result["prompts"]
    assert isinstance(prompts, dict)
    lines = [f"{result['cells']} cells, {EVALUATOR} {METRIC} on {prompts['test']} test prompts, step {STEP}"]
    for name, row in {"best probe": best, **baselines}.items():
        lines.append(f"{name:<20}{row['estimate']:>8.3f}  [{row['lower']:.3f}, {row['upper']:.3f}]")
    lines.append(f"best probe: {best['taps']}, {best['loss']} (at least {AT_LEAST})")
    for taps, curve in curves.items():
        lines.append("  ".join(f"step {step}: {value:.3f}" for step, value in curve.items()) + f"   {taps}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/shapes_full"))
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.runs), table, arguments.json)


if __name__ == "__main__":
    main()
