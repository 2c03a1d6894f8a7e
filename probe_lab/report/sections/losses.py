"""Training objectives side by side: dots and whiskers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.report.analysis.chosen import by_validation, extra_text, halving_text, probes
from probe_lab.report.analysis.results import VARIANT, Results, Value, Variant
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import (
    MARKERS,
    OKABE_ITO,
    PAGE,
    evaluator_label,
    legend_label,
    loss_label,
    tap_labels,
    tap_order,
)

COLUMNS = 3
MOST_TAPS = 4
MOST_ROWS = 24
_NOTHING = Value(np.nan, np.nan, np.nan)

_EXPLANATION = """Within-prompt SRCC on the test split at step {step} for every objective (rows) and tap
(colours). Dots: mean over training seeds; whiskers: 95 % interval over test prompts, and over training seeds where
there are several; small pale dots: the single training seeds. Whiskers that overlap decide nothing, since objectives
share their prompts: paired differences, with all comparisons considered, are in the part "Which loss?". The spread of
the pale dots says how much of a difference is the luck of one training run. Suspicious would
be an objective at exactly 0 (it did not train), or pale dots that lie further apart than the whiskers are
long.{dropped}"""


def section(material: Material) -> Section:
    """One figure with a panel per evaluator, or the reason why there is none."""
    results, choice = material.results, material.choice
    cells = results.cells[results.cells["model"].isin(probes(results)) & (results.cells["step"] == choice.step)]
    cells = cells.assign(row=_rows_of(cells))
    counts = cells.groupby("taps")["row"].nunique()
    several = [tap for tap in counts.index if counts[tap] > 1]
    title = "Loss variants"
    if not several:
        text = f"At step {choice.step} every tap has one objective: add losses to the sweep (probe.loss)."
        return Section("losses", title, "", skipped=(text,))
    # The tap of the best probe first, then those with most objectives, of these the ones that validate best.
    at_step = results.means[results.means["step"] == choice.step]
    strength = by_validation(at_step[at_step["model"].isin(probes(results))], choice.evaluators[0])
    several.sort(key=lambda tap: (tap != choice.best.taps, -counts[tap], strength.index(tap)))
    taps = sorted(several[:MOST_TAPS], key=tap_order)
    cells = cells[cells["taps"].isin(taps)]
    everything = _strongest_rows(results, cells, choice.evaluators[0])
    shown = everything[:MOST_ROWS]
    cells = cells[cells["row"].isin(shown)]
    rows = sorted(shown, key=lambda row: ("," in row, row.count("+"), row))
    dropped = f" Shown are {len(taps)} of {len(several)} taps." if len(taps) < len(several) else ""
    dropped += f" Shown are the {len(rows)} of {len(everything)} objectives that validate best." * (
        len(rows) < len(everything)
    )
    dropped += halving_text(results)
    drawing = Drawing("losses", _alt(material, rows), _draw(material, cells, taps, rows))
    return Section("losses", title, _EXPLANATION.format(step=choice.step, dropped=dropped), (drawing,))


def _rows_of(cells: pd.DataFrame) -> list[str]:
    pairs = zip(cells["loss"], cells["extra"], strict=True)
    return [loss_label(loss) + (f", {extra_text(extra)}" if extra != "{}" else "") for loss, extra in pairs]


def _strongest_rows(results: Results, cells: pd.DataFrame, evaluator: str) -> list[str]:
    """The objectives among these cells, those that validate best with any tap first."""
    scores = results.scores
    wanted = scores["evaluator"].eq(evaluator) & scores["metric"].eq("srcc_within") & scores["split"].eq("val")
    merged = cells[["cell", "taps", "row"]].merge(scores.loc[wanted, ["cell", "estimate"]], on="cell", how="left")
    strength = merged.groupby(["row", "taps"])["estimate"].mean().groupby("row").max().fillna(-np.inf)
    return sorted(strength.index, key=lambda row: (-strength[row], row))


def _draw(material: Material, cells: pd.DataFrame, taps: list[str], rows: list[str]) -> Figure:
    evaluators = material.choice.evaluators
    columns = min(len(evaluators), COLUMNS)
    lines = -(-len(evaluators) // columns)
    height = 0.14 + 0.08 * len(taps)
    figure = Figure(figsize=(PAGE, 0.45 + lines * (0.55 + height * len(rows))))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
    for i, (ax, evaluator) in enumerate(zip(axes.flat, evaluators, strict=False)):
        _panel(ax, material.results, cells, taps, rows, evaluator)
        ax.set_title(evaluator_label(evaluator))
        if i + columns >= len(evaluators):
            ax.set_xlabel("SRCC within prompts")
            ax.xaxis.set_tick_params(labelbottom=True)
    for ax in axes.flat[len(evaluators) :]:
        ax.set_visible(False)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4))
    return figure


def _panel(ax: Axes, results: Results, cells: pd.DataFrame, taps: list[str], rows: list[str], evaluator: str) -> None:
    scores = results.scores
    scores = scores[
        (scores["evaluator"] == evaluator) & (scores["metric"] == "srcc_within") & (scores["split"] == "test")
    ]
    merged = cells[["cell", "row"]].merge(scores, on="cell")
    labels = tap_labels(taps)
    ax.axvline(0, color="black", lw=0.6, zorder=1)
    for i, tap in enumerate(taps):
        at = (i - (len(taps) - 1) / 2) * 0.7 / len(taps)
        single = merged[merged["taps"] == tap]
        mean = single[["row", *VARIANT]].drop_duplicates(ignore_index=True)
        variants = [Variant(*found) for found in mean[VARIANT].itertuples(index=False)]
        values = [results.value(variant, evaluator, "srcc_within") or _NOTHING for variant in variants]
        mean = mean.assign(**{part: [getattr(v, part) for v in values] for part in ("estimate", "lower", "upper")})
        single_y = np.array([rows.index(row) for row in single["row"]], float) + at
        y = np.array([rows.index(row) for row in mean["row"]], float) + at
        below = 0.3 * 0.7 / len(taps)  # the whisker would hide them
        ax.plot(single["estimate"], single_y + below, "o", color=OKABE_ITO[i], ms=2, alpha=0.5, mew=0, zorder=2)
        ax.hlines(y, mean["lower"], mean["upper"], color=OKABE_ITO[i], lw=1.1, zorder=3)
        ax.plot(
            mean["estimate"],
            y,
            MARKERS[i],
            color=OKABE_ITO[i],
            ms=3.8,
            mec="white",
            mew=0.4,
            zorder=4,
            label=legend_label(labels[tap]),
        )
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def _alt(material: Material, rows: list[str]) -> str:
    return (
        f"Dots with intervals of the within-prompt SRCC at step {material.choice.step} for the objectives "
        f"{'; '.join(rows)}, one panel per evaluator."
    )
