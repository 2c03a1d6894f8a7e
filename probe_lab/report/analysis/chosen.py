"""Which step, which probe and which baselines a report puts in front: decided on the validation split
only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe_lab.errors import ReportError, nearest
from probe_lab.probes.kinds import baselines, recorded
from probe_lab.report.analysis.results import VARIANT, Results, Variant
from probe_lab.report.layout.style import loss_label, tap_label, tap_order

SELECTION_METRIC = "srcc_within"


@dataclass(frozen=True)
class HeadlineChoice:
    """What the headline compares: the best probe at ``step`` and the baselines that exist there.

    Best means: highest within-prompt SRCC of ``evaluators[0]`` on the validation split, mean over training
    seeds. A baseline with several variants at the step is chosen by the same rule.
    """

    step: int
    evaluators: tuple[str, ...]
    best: Variant
    baselines: dict[str, Variant]


def choose(results: Results, evaluators: Sequence[str], primary_step: int | None) -> HeadlineChoice:
    """Decide once, for all figures and tables.

    Raises ReportError for an evaluator without results, a step at which no probe was trained, or no probe
    at all.
    """
    names = tuple(evaluators) or tuple(results.evaluators)
    for name in names:
        if name not in results.evaluators:
            raise ReportError(
                f"no cell predicts the evaluator '{name}': {nearest(name, results.evaluators)}; "
                f"add it to `evaluators` and run `probe-lab sweep {results.folder.name}`"
            )
    step = _primary_step(results, primary_step)
    best = best_on_validation(results, probes(results), step, names[0])
    assert best is not None  # _primary_step only returns steps of probes
    best_of = {name: best_on_validation(results, [name], step, names[0]) for name in baselines_of(results)}
    return HeadlineChoice(step, names, best, {name: variant for name, variant in best_of.items() if variant})


def probes(results: Results) -> list[str]:
    """The models that are no baselines."""
    models = dict.fromkeys(variant.model for variant in results.variants)
    return [model for model in models if not recorded(model).is_baseline]


def baselines_of(results: Results) -> list[str]:
    """What every probe is compared with, in the order of the tables: our baselines, whether they were trained or not,
    and others that were."""
    return baselines(variant.model for variant in results.variants)


def best_on_validation(
    results: Results,
    models: Sequence[str],
    step: int | None,
    evaluator: str,
    taps: str | None = None,
    scalars: tuple[str, ...] | None = None,
) -> Variant | None:
    """The variant of these models (at a step, of these taps and scalars; None: any) that validates best; the first one
    where nothing is defined."""
    candidates = [
        variant
        for variant in results.variants
        if variant.model in models
        and step in (None, variant.step)
        and taps in (None, variant.taps)
        and (scalars is None or scalars == results.scalars(variant))
    ]
    if not candidates:
        return None
    values = [results.estimate(variant, evaluator, SELECTION_METRIC, "val") for variant in candidates]
    ranked = [value if np.isfinite(value) else -np.inf for value in values]
    return candidates[int(np.argmax(ranked))]


def by_validation(rows: pd.DataFrame, evaluator: str) -> list[str]:
    """The taps of these rows of ``means``, those that validate best (mean over their other axes) first."""
    wanted = rows["evaluator"].eq(evaluator) & rows["metric"].eq(SELECTION_METRIC) & rows["split"].eq("val")
    means = rows[wanted].groupby("taps")["estimate"].mean().dropna()
    return sorted(rows["taps"].unique(), key=lambda tap: (-means.get(tap, -np.inf), tap_order(tap)))


def steps_of(results: Results, models: Sequence[str]) -> list[int]:
    return sorted({variant.step for variant in results.variants if variant.model in models})


def main_slice(results: Results) -> pd.DataFrame:
    """Rows of ``means`` of the probes with the one (loss, extra) that covers most steps × taps, listwise
    if it ties.

    Curves over steps and heat maps over blocks vary one thing at a time; this is what they hold fixed.
    """
    cells = results.cells[results.cells["model"].isin(probes(results))]
    grid = cells[VARIANT].drop_duplicates().groupby(["model", "loss", "extra"]).size().reset_index(name="cells")
    grid["plain"] = grid["loss"] == "listwise"
    grid["simple"] = -grid["extra"].str.len()
    model, loss, extra = grid.sort_values(["cells", "plain", "simple", "loss"]).iloc[-1][["model", "loss", "extra"]]
    means = results.means
    return means[(means["model"] == model) & (means["loss"] == loss) & (means["extra"] == extra)]


def halving_text(results: Results) -> str:
    """The sentence of a caption about the cells that successive halving stopped, with a space before it; "" for
    none."""
    count = len(results.halved)
    if not count:
        return ""
    return (
        f" Left out {'is the one cell' if count == 1 else f'are the {count} cells'} that successive halving stopped "
        "before the last epoch."
    )


def slice_text(rows: pd.DataFrame) -> str:
    """What a main slice holds fixed: "listwise loss, ema 0.99"."""
    first = rows.iloc[0]
    extra = extra_text(first["extra"])
    return f"{loss_label(first['loss'])} loss" + (f", {extra}" if extra else "")


def extra_text(extra: str) -> str:
    """'{"ema": 0.9}' -> "ema 0.9"."""
    return ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in json.loads(extra).items())


def variant_text(variant: Variant, *, step: bool = True) -> str:
    """One line for people: "probe (CNN), up 1.0 attn, listwise, step 5"."""
    kind = recorded(variant.model)
    parts = [kind.label]
    parts += [tap_label(variant.taps)] if variant.taps and kind.reads in ("taps", "attention") else []
    parts += [loss_label(variant.loss)] if variant.loss and kind.by_gradient else []
    parts += [extra_text(variant.extra)] if variant.extra != "{}" else []
    return ", ".join(parts + ([f"step {variant.step}"] if step else []))


def _primary_step(results: Results, wanted: int | None) -> int:
    available = steps_of(results, probes(results))
    if not available:
        raise ReportError(
            f"{results.folder / 'results.parquet'} holds baselines only "
            f"({', '.join(results.cells['model'].unique())}): "
            "train at least one probe (probe.model=cnn) to compare them with"
        )
    if wanted is not None:
        if wanted not in available:
            raise ReportError(
                f"no probe was trained at step {wanted}: report with probe.step set to one of "
                f"{', '.join(map(str, available))}, or add the step to the sweep"
            )
        return wanted
    others = results.cells[results.cells["model"].isin(baselines_of(results)) & results.cells["step"].isin(available)]
    if not others.empty:
        counts = others.groupby("step")["model"].nunique()
        common = sorted(int(step) for step in counts[counts == counts.max()].index)
        return 5 if 5 in common else common[0]
    return 5 if 5 in available else available[(len(available) - 1) // 2]


def _plain(value: object) -> str:
    if isinstance(value, dict):  # a section, such as the backbone
        return ":".join(str(part) for part in value.values() if part)
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
