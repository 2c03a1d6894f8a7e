"""Probe-Select as its authors' code trains it, beside what the paper says and beside ours."""

from __future__ import annotations

import json

from probe_lab.report.analysis.chosen import probes
from probe_lab.report.analysis.results import Variant
from probe_lab.report.layout.material import Section
from probe_lab.report.layout.style import evaluator_label, loss_label
from probe_lab.report.layout.table_forms import Field
from probe_lab.report.papers.ablations import published_spearman
from probe_lab.report.papers.shown import Shown, our_table

_LOSSES = ("listwise", "listwise+infonce", "listwise+infonce+pearson")


def table_released(shown: Shown) -> Section:
    """A row per probe and step, the released form last; a column per evaluator."""
    key, results, taps = "probe_select_released", shown.results, shown.probe().taps
    found = [v for v in results.variants if v.taps == taps and v.model in probes(results)]
    found.sort(key=lambda variant: (_order(variant), variant.step))
    rows: list[tuple[Field, ...]] = []
    for variant in found:
        steps = _steps(variant)
        values = [shown.value(variant, name, "srcc") for name in shown.evaluators]
        within = [shown.value(variant, name, "srcc_within") for name in shown.evaluators[:1]]
        rows.append((loss_label(variant.loss), ", ".join(map(str, steps)), variant.step, *values, *within))
    several = any(len(_steps(variant)) > 1 for variant in found)
    return Section(
        key,
        "As released (Probe-Select)",
        "",
        skipped=() if several else ("The released form: no probe here was trained on several steps (probe.steps).",),
        tables=(
            published_spearman(key),
            our_table(
                key,
                f"{shown.model}, {shown.steps} steps: SRCC by objective and steps of training",
                "Rows with one step of training have a probe of their own; those with several share one, which is told "
                "the step. listwise + InfoNCE is the objective of the paper, with Pearson that of its code, whose "
                f"lists are whole batches. Last column: {evaluator_label(shown.evaluators[0])} within prompts.",
                ("objective", "trained at", "evaluated at", *_columns(shown), "within prompts"),
                rows,
            ),
        ),
    )


def _columns(shown: Shown) -> list[str]:
    return [evaluator_label(name) for name in shown.evaluators]


def _steps(variant: Variant) -> list[int]:
    """The steps that a variant was trained on."""
    extra = json.loads(variant.extra)
    return list(extra.get("steps") or extra.get("probe.steps") or [variant.step])


def _order(variant: Variant) -> tuple[int, int, str]:
    place = _LOSSES.index(variant.loss) if variant.loss in _LOSSES else -1
    return len(_steps(variant)), place, variant.loss
