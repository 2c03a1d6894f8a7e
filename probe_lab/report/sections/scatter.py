"""Predicted over true scores of the best probe on unseen prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.report.analysis.chosen import variant_text
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import LIGHT, MARKERS, OKABE_ITO, PAGE, evaluator_label, number_text
from probe_lab.report.sections.reliability import order_note, unscaled

COLUMNS = 3
HIGHLIGHTED = 6

_EXPLANATION = """Every point is one finished image of a test prompt: its true score (across) and what the
best probe ({best}, training seed {seed}, the first one) predicted for it at step {step} (up). Grey: all
images. Coloured: the seeds of {prompts} prompts, taken at even distances from the hardest to the easiest,
with the straight line fitted through each. The spread of the whole cloud shows correlation over all
images; that the short coloured lines rise is correlation within prompts, which is what choosing a seed
needs. Predictions of a ranking loss have no unit, so only order matters, not distance from a diagonal.
Suspicious would be a rising cloud made of flat coloured lines (only prompt difficulty was learned), or
horizontal stripes (one prediction for a whole prompt)."""


def section(material: Material) -> Section:
    """One figure with a panel per evaluator that the best probe predicts."""
    results, best = material.results, material.choice.best
    seed, cell = next(iter(results.seeds(best).items()))
    tables = {name: results.predictions(cell, name) for name in material.choice.evaluators}
    skipped = tuple(
        f"The best probe does not predict {evaluator_label(name)}." for name, table in tables.items() if table.empty
    )
    tables = {name: table for name, table in tables.items() if not table.empty}
    if not tables:
        return Section("scatter", "Predicted over true", "", skipped=skipped)
    prompts = min(HIGHLIGHTED, min(table["prompt_id"].nunique() for table in tables.values()))
    text = _EXPLANATION.format(
        best=variant_text(best, step=False), seed=seed, step=material.choice.step, prompts=prompts
    ) + order_note(results, best, tables)
    names = ", ".join(evaluator_label(name) for name in tables)
    alt = f"Scatter plots of predicted over true score on the test split, one for each of: {names}."
    drawing = Drawing("scatter", alt, _draw(material, tables))
    return Section("scatter", "Predicted over true", text, (drawing,), skipped)


def _draw(material: Material, tables: dict[str, pd.DataFrame]) -> Figure:
    cell = next(iter(material.results.seeds(material.choice.best).values()))
    columns = min(len(tables), COLUMNS)
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(PAGE, 2.45 * lines))
    axes = figure.subplots(lines, columns, squeeze=False)
    for i, (ax, (name, table)) in enumerate(zip(axes.flat, tables.items(), strict=False)):
        _panel(ax, table)
        ordered = name in unscaled(material.results, cell)
        within, pooled = (
            material.results.estimate(material.choice.best, name, metric) for metric in ("srcc_within", "srcc")
        )
        numbers = [
            f"{text} {number_text(value)}"
            for text, value in (("within", within), ("all", pooled))
            if np.isfinite(value)
        ]
        ax.set_title(f"{evaluator_label(name)}\nSRCC {', '.join(numbers) or 'undefined'}")
        ax.set_xlabel("true score")
        if i % columns == 0:
            ax.set_ylabel("predicted")
        if ordered:
            ax.set_ylabel("predicted order (no units)")
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    return figure


def _panel(ax: Axes, table: pd.DataFrame) -> None:
    # Thousands of points: drawn as pixels in the PDF too, text and axes stay vectors.
    ax.plot(table["target"], table["prediction"], "o", color=LIGHT, ms=1.8, mew=0, alpha=0.6, rasterized=True)
    difficulty = table.groupby("prompt_id")["target"].mean().sort_values(kind="stable")
    at = np.linspace(0, len(difficulty) - 1, min(HIGHLIGHTED, len(difficulty))).round().astype(int)
    for i, prompt in enumerate(difficulty.index[at]):
        rows = table[table["prompt_id"] == prompt]
        x, y = rows["target"].to_numpy(float), rows["prediction"].to_numpy(float)
        ax.plot(x, y, MARKERS[i], color=OKABE_ITO[i], ms=2.8, mew=0.3, mec="white")
        if np.ptp(x) > 0:
            ends = np.array([x.min(), x.max()])
            ax.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color=OKABE_ITO[i], lw=1.1)
