"""Metric over the number of training captions: whether more of them would still help."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from probe_lab.report.analysis.chosen import SELECTION_METRIC, variant_text
from probe_lab.report.analysis.results import Results, Value, Variant
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import METRICS, PAGE, evaluator_label, legend_label, look, model_label
from probe_lab.report.layout.table_forms import Table

METRICS_SHOWN = ("srcc_within", "selection_gain")
TITLE = "Learning curve"
_SIZE = "train_prompts"

_EXPLANATION = """Each line is one model, trained on as many captions as the axis says (logarithmic), each with all
its seeds, and tested on the same unseen captions. Where a model was swept in several variants, it is the one that was
trained on most numbers of captions, of several such the one that validates best with the most captions. Shaded: 95 %
interval over test prompts, and over training seeds where there are several: each seed draws its own captions, so
their choice is in it. A line that still rises at its right end says that more captions would help this model; one that
is flat says that they would not, and that something else bounds it (what it reads, its labels, its size). Suspicious
would be a line that falls, which is a training that is too long for few captions, or too short for many."""

LearningCurve = Mapping[int, Variant]
"""Number of training captions, ascending -> what was trained on so many."""


def section(material: Material) -> Section:
    """One figure and one table per evaluator, or the reason why there is no curve."""
    curves = learning_curves(material.results, material.choice.evaluators[0])
    if not curves:
        text = "No model was trained on several numbers of captions: a curve needs them (data.train_prompts)."
        return Section("learning", TITLE, "", skipped=(text,))
    evaluators = material.choice.evaluators
    return Section(
        "learning",
        TITLE,
        _EXPLANATION,
        tuple(_draw(material.results, curves, evaluator) for evaluator in evaluators),
        tables=tuple(_table(material.results, curves, evaluator) for evaluator in evaluators),
    )


def learning_curves(results: Results, evaluator: str) -> dict[str, LearningCurve]:
    """The curve of each model that was trained on several numbers of captions."""
    settings: dict[tuple[str, ...], dict[int, Variant]] = defaultdict(dict)
    for variant, seeds in results.variants.items():
        sizes = {results.trained[cell].train_prompts for cell in seeds.values()} - {0}
        if len(sizes) == 1:
            settings[_setting(variant)].setdefault(sizes.pop(), variant)
    of_model: dict[str, list[dict[int, Variant]]] = defaultdict(list)
    for curve in settings.values():
        if len(curve) > 1:
            of_model[next(iter(curve.values())).model].append(dict(sorted(curve.items())))

    def worth(curve: LearningCurve) -> tuple[int, float]:
        value = results.estimate(list(curve.values())[-1], evaluator, SELECTION_METRIC, "val")
        return len(curve), value if np.isfinite(value) else -np.inf

    return {model: max(curves, key=worth) for model, curves in of_model.items()}


def _setting(variant: Variant) -> tuple[str, ...]:
    """All that tells a variant from another but its number of captions."""
    extra = {key: value for key, value in json.loads(variant.extra).items() if key != _SIZE}
    return variant.model, str(variant.step), variant.taps, variant.loss, json.dumps(extra)


def _draw(results: Results, curves: Mapping[str, LearningCurve], evaluator: str) -> Drawing:
    figure = Figure(figsize=(PAGE, 2.7))
    panels = figure.subplots(1, len(METRICS_SHOWN))
    for ax, metric in zip(panels, METRICS_SHOWN, strict=True):
        for i, (model, curve) in enumerate(curves.items()):
            color, marker = look(i)
            points = [results.value(variant, evaluator, metric) or _MISSING for variant in curve.values()]
            label = legend_label(model_label(model))
            ax.plot([*curve], [point.estimate for point in points], color=color, marker=marker, label=label, zorder=3)
            bounds = [point.lower for point in points], [point.upper for point in points]
            ax.fill_between([*curve], *bounds, color=color, alpha=0.13, lw=0)
        ax.axhline(0, color="black", lw=0.6, zorder=1)
        ax.set_ylabel(METRICS[metric])
        _captions_axis(ax, sorted({size for curve in curves.values() for size in curve}))
    figure.suptitle(evaluator_label(evaluator), fontsize=9, fontweight="bold", x=0.01, ha="left")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5))
    alt = (
        f"Two line charts over the number of training captions for {evaluator_label(evaluator)}: rank correlation "
        f"within prompts and selection gain, one line for each of {', '.join(map(model_label, curves))}."
    )
    return Drawing(f"learning_{evaluator}", alt, figure)


_MISSING = Value(np.nan, np.nan, np.nan)


def _captions_axis(ax: Axes, sizes: list[int]) -> None:
    ax.set_xscale("log")
    shown = [size for i, size in enumerate(sizes) if i in (0, len(sizes) - 1) or size >= 1.3 * sizes[i - 1]]
    ax.set_xticks(shown, [f"{size:,}".replace(",", "\u00a0") for size in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("training captions")


def _table(results: Results, curves: Mapping[str, LearningCurve], evaluator: str) -> Table:
    rows = [
        (
            model_label(model),
            size,
            *(results.value(variant, evaluator, metric) for metric in METRICS_SHOWN),
            len(results.seeds(variant)),
        )
        for model, curve in curves.items()
        for size, variant in curve.items()
    ]
    settings = "; ".join(variant_text(next(iter(curve.values()))) for curve in curves.values())
    return Table(
        name=f"learning_{evaluator}",
        title=f"{TITLE}, {evaluator_label(evaluator)}",
        caption=f"Test split, unseen prompts. The smallest of each: {settings}.",
        columns=("model", "training captions", *(METRICS[name] for name in METRICS_SHOWN), "training seeds"),
        rows=tuple(rows),
    )
