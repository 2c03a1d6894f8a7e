"""Metric over step: one line per tap, baselines beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.report.analysis.chosen import (
    HeadlineChoice,
    baselines_of,
    best_on_validation,
    by_validation,
    halving_text,
    main_slice,
    slice_text,
    steps_of,
)
from probe_lab.report.analysis.results import VARIANT, Results, Value, Variant
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import (
    GREY,
    METRICS,
    OKABE_ITO,
    PAGE,
    evaluator_label,
    legend_label,
    look,
    model_label,
    tap_labels,
    tap_order,
)

METRICS_SHOWN = ("srcc_within", "srcc")
MOST_LINES = len(OKABE_ITO)
MOST_TICKS = 10
MOST_BANDS = 3  # more bands than this hide each other

_EXPLANATION = """Each line is a probe on one tap ({held}), mean over training seeds. Left: rank
correlation among the seeds of one prompt, the number that decides whether seeds can be chosen early;
right: over all images at once, which also rewards knowing which prompts are hard. Shaded: 95 % interval
over test prompts, and over training seeds where there are several{bands}. Grey: baselines, at the
step where they were trained; the dotted line carries their level across. Read the left panel against 0 and
against "prompt only", which cannot rank seeds and should sit at 0 there while it may be high on the right.
Suspicious would be: a left panel that starts high at step 1 (a leak), shuffled labels away from 0, or a
curve that falls steadily with later steps.{dropped}"""


def section(material: Material) -> Section:
    """One figure per evaluator with two panels, or the reason why there is no curve."""
    choice = material.choice
    rows = main_slice(material.results)
    steps = sorted(rows["step"].unique())
    title = "Metric over step"
    if len(steps) < 2:
        text = f"The probes were trained at one step only ({steps[0]}): a curve needs more (probe.step)."
        return Section("curves", title, "", skipped=(text,))
    taps = by_validation(rows, choice.evaluators[0])[:MOST_LINES]
    everything = rows["taps"].nunique()
    dropped = f" Shown are the {len(taps)} of {everything} taps that validate best." if len(taps) < everything else ""
    dropped += halving_text(material.results)
    bands = "" if len(taps) <= MOST_BANDS else ", drawn for the tap that validates best"
    predicted = [name for name in choice.evaluators if (rows["evaluator"] == name).any()]
    drawings = tuple(_draw(material, rows, taps, evaluator) for evaluator in predicted)
    skipped = tuple(
        f"{evaluator_label(name)}: no probe with {slice_text(rows)} predicts it."
        for name in choice.evaluators
        if name not in predicted
    )
    text = _EXPLANATION.format(held=slice_text(rows), bands=bands, dropped=dropped)
    return Section("curves", title, text, drawings, skipped)


def _draw(material: Material, rows: pd.DataFrame, taps: list[str], evaluator: str) -> Drawing:
    figure = Figure(figsize=(PAGE, 2.9))
    panels = figure.subplots(1, len(METRICS_SHOWN))
    labels = tap_labels(taps)
    ordered = sorted(taps, key=tap_order)
    for ax, metric in zip(panels, METRICS_SHOWN, strict=True):
        shown = rows[(rows["evaluator"] == evaluator) & (rows["metric"] == metric) & (rows["split"] == "test")]
        for i, tap in enumerate(ordered):
            line = shown[shown["taps"] == tap].sort_values("step")
            color, marker = look(i)
            ax.plot(
                line["step"], line["estimate"], color=color, marker=marker, label=legend_label(labels[tap]), zorder=3
            )
            if len(taps) <= MOST_BANDS or tap == taps[0]:
                bounds = [_bounds(material.results, row, evaluator, metric) for _, row in line.iterrows()]
                ax.fill_between(line["step"], *zip(*bounds, strict=True), color=color, alpha=0.13, lw=0)
        ax.axhline(0, color="black", lw=0.6, zorder=1)
        ax.set_xlabel(material.step_text)
        ax.set_ylabel(METRICS[metric])
        steps = sorted(rows["step"].unique())
        ax.set_xticks(steps[:: -(-len(steps) // MOST_TICKS)])
        _draw_baselines(ax, material, evaluator, metric)
    panels[0].set_title("within prompts: can it rank seeds?")
    panels[1].set_title("all images: prompt difficulty included")
    figure.suptitle(evaluator_label(evaluator), fontsize=9, fontweight="bold", x=0.01, ha="left")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names) if len(names) < 6 else 4)
    alt = (
        f"Two line charts over the denoising step for {evaluator_label(evaluator)}: rank correlation "
        "within prompts and "
        f"over all images, one line for each of {', '.join(labels[tap] for tap in ordered)}, baselines in "
        "grey."
    )
    return Drawing(f"curve_{evaluator}", alt, figure)


def _bounds(results: Results, row: pd.Series[Any], evaluator: str, metric: str) -> tuple[float, float]:
    """Of a row of ``means``, over prompts and training seeds."""
    value = results.value(Variant(*(row[name] for name in VARIANT)), evaluator, metric)
    return (np.nan, np.nan) if value is None else (value.lower, value.upper)


def _draw_baselines(ax: Axes, material: Material, evaluator: str, metric: str) -> None:
    results, ends = material.results, {}
    for model in baselines_of(results):
        points = _points(results, material.choice, model, evaluator, metric)
        if not points:
            continue
        steps = sorted(points)
        values = [points[step].estimate for step in steps]
        if len(steps) == 1:
            ax.axhline(values[0], color=GREY, lw=0.7, ls=(0, (1, 2)), zorder=1)
        ax.plot(steps, values, color=GREY, lw=0.9, ls="--", marker="o", ms=3, mfc="white", zorder=2)
        ends[model_label(model)] = values[-1]
    _label_right(ax, ends)


def _points(results: Results, choice: HeadlineChoice, model: str, evaluator: str, metric: str) -> dict[int, Value]:
    points = {}
    for step in steps_of(results, [model]):
        variant = best_on_validation(results, [model], step, choice.evaluators[0])
        value = results.value(variant, evaluator, metric) if variant else None
        if value and np.isfinite(value.estimate):
            points[step] = value
    return points


def _label_right(ax: Axes, ends: dict[str, float]) -> None:
    """Names at the right end of their lines, moved apart until none covers another."""
    if not ends:
        return
    names = sorted(ends, key=lambda name: ends[name])
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    at = (np.array([ends[name] for name in names]) - low) / (high - low)
    for name, true, moved in zip(names, at, spread(at, gap=0.068), strict=True):
        ax.annotate(
            name,
            xy=(1.0, true),
            xytext=(1.05, moved),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=6.5,
            color=GREY,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 0},
        )


def spread(positions: npt.NDArray[np.float64], gap: float) -> npt.NDArray[np.float64]:
    """Ascending positions, moved as little as it takes (least squares) to be ``gap`` apart."""
    # Subtracting the wanted gaps leaves "never descending", which pooling adjacent violators solves exactly.
    offset = gap * np.arange(len(positions))
    blocks: list[list[float]] = []
    for value in positions - offset:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return np.concatenate([np.full(len(block), np.mean(block)) for block in blocks]) + offset
