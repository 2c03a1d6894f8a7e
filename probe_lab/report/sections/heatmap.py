"""Step × block: where and when the denoiser knows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy import special

from probe_lab.metrics import holm
from probe_lab.report.analysis.chosen import by_validation, halving_text, main_slice, slice_text
from probe_lab.report.analysis.results import CONFIDENCE
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import LIGHT, PAGE, evaluator_label, ink, number_text, tap_labels, tap_order

MOST_ROWS = 30
_PANELS = ((6, 3), (12, 2))
"""(steps, panels in a line): with more steps than that the numbers in the fields need wider panels."""
_MOST_NUMBERS = 24
"""Steps above which the fields hold no numbers."""
_MAP = "cividis"  # made to look the same with and without colour blindness

_EXPLANATION = """Within-prompt SRCC on the test split for every step (columns) and tap (rows), {held},
mean over training seeds; one colour scale for all panels. Rows follow the denoiser from its first block to
its last, joined taps come last. Read along a row to see when a block begins to tell seeds apart, and down
a column to see which block to tap at a given cost. Numbers in brackets are not told from 0 where all fields of
the panel are considered (Holm's p of 0.05 or more, over prompts). Neighbouring fields should be alike. Suspicious
would be a single bright field in a dark surrounding: more likely luck (its interval is in the table of cells)
than knowledge.{missing}"""


def section(material: Material) -> Section:
    """One figure with a panel per evaluator, or the reason why there is none."""
    title = "Step × block"
    rows = main_slice(material.results)
    taps, steps = rows["taps"].nunique(), rows["step"].nunique()
    if taps < 2 or steps < 2:
        text = f"A heat map needs two steps and two taps, the sweep has {steps} × {taps} ({slice_text(rows)})."
        return Section("heatmap", title, "", skipped=(text,))
    test = rows[(rows["metric"] == "srcc_within") & (rows["split"] == "test")]
    evaluators = material.choice.evaluators
    test = test.assign(p=_p_values(test))
    tables, told = (
        {name: test[test["evaluator"] == name].pivot_table(column, "taps", "step", dropna=False) for name in evaluators}
        for column in ("estimate", "p")
    )
    strongest = by_validation(rows, evaluators[0])[:MOST_ROWS]
    order = sorted(strongest, key=tap_order)
    columns = sorted(rows["step"].unique())
    tables, told = (
        {name: table.reindex(index=order, columns=columns) for name, table in found.items()} for found in (tables, told)
    )
    missing = any(table.isna().to_numpy().any() for table in tables.values())
    note = " Grey fields were not part of the sweep, or failed." if missing else ""
    note += f" Shown are the {len(order)} of {taps} taps that validate best." if len(order) < taps else ""
    note += halving_text(material.results)
    drawing = Drawing("heatmap", _alt(material, order), _draw(material, tables, told))
    return Section("heatmap", title, _EXPLANATION.format(held=slice_text(rows), missing=note), (drawing,))


def _p_values(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Of each row's truth being 0, by how many half widths of its interval its estimate is away."""
    freedom = np.maximum(rows["prompts"].to_numpy(float) - 1, 1)
    half = (rows["upper"] - rows["lower"]).to_numpy(float) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.abs(rows["estimate"].to_numpy(float)) / half * special.stdtrit(freedom, 0.5 + CONFIDENCE / 2)
    values: npt.NDArray[np.float64] = 2 * special.stdtr(freedom, -away)
    return values


def _draw(material: Material, tables: dict[str, pd.DataFrame], told: dict[str, pd.DataFrame]) -> Figure:
    count, steps = next(iter(tables.values())).shape
    columns = min(len(tables), next((panels for most, panels in _PANELS if steps <= most), 1))
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(PAGE, lines * (0.75 + 0.24 * count)))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    values = np.concatenate([table.to_numpy(float).ravel() for table in tables.values()])
    values = values[np.isfinite(values)]
    norm = Normalize(min(0.0, values.min(initial=0.0)), max(values.max(initial=0.0), 1e-3))
    for i, (ax, (name, table)) in enumerate(zip(axes.flat, tables.items(), strict=False)):
        _panel(ax, table, norm, holm(told[name].to_numpy(float).ravel().tolist()).reshape(table.shape) < 1 - CONFIDENCE)
        ax.set_title(evaluator_label(name))
        if i + columns >= len(tables):
            ax.set_xlabel(material.step_text)
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, _MAP), ax=axes, fraction=0.03, pad=0.015, aspect=30)
    bar.set_label("SRCC\nwithin prompts")
    bar.outline.set_visible(False)
    return figure


def _panel(ax: Axes, table: pd.DataFrame, norm: Normalize, apart: npt.NDArray[np.bool_]) -> None:
    """``apart`` [taps, steps]: fields that are told from 0."""
    values = table.to_numpy(float)
    ax.set_facecolor(LIGHT)
    image = ax.imshow(np.ma.masked_invalid(values), cmap=_MAP, norm=norm, aspect="auto")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    labels = tap_labels(table.index)
    stride = -(-len(table.columns) // _MOST_NUMBERS)
    ax.set_xticks(range(0, len(table.columns), stride), [str(step) for step in table.columns[::stride]])
    ax.set_yticks(range(len(table.index)), [labels[tap] for tap in table.index])
    if len(table.columns) > _MOST_NUMBERS:
        return
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        color = ink(image.cmap(norm(value)))
        text = number_text(value) if apart[row, column] else f"({number_text(value)})"
        ax.text(column, row, text, ha="center", va="center", fontsize=6, color=color)


def _alt(material: Material, taps: list[str]) -> str:
    names = ", ".join(evaluator_label(name) for name in material.choice.evaluators)
    return f"Heat maps of the within-prompt SRCC over step and {len(taps)} taps, one for each of: {names}."
