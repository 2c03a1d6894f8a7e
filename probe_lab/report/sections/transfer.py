"""Transfer: a probe that was trained for one step, tap, evaluator or backbone, tested on another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from probe_lab.report.analysis.chosen import main_slice, slice_text
from probe_lab.report.analysis.results import Value
from probe_lab.report.analysis.transferred import Found, Matrix, transferred
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import METRICS, OKABE_ITO, PAGE, evaluator_label, ink
from probe_lab.report.layout.table_forms import Table

TITLE = "Transfer"
MOST_INTERVALS = 6
"""With more columns the fields are too small for intervals; the table has them."""

# Red and blue differ for colour-blind readers too, and white is "knows nothing". Few colours: a PNG keeps 256.
_MAP = colormaps["RdBu"].resampled(20)

_EXPLANATION = """Rows say what a probe was trained on, columns what it is tested on; fields are the within-prompt SRCC
on test prompts{evaluator}{intervals}. Framed in orange: tested on what it was trained on, the ordinary result.
Evaluators: the best probe's predictions of one evaluator against the true scores of another. Steps, taps and backbones:
one probe per step and tap, {held}, of the first training seed, applied without any further training to arrays of
another place.{sampled} It is told the true step, and it standardises its input by the statistics of its own training,
which another place need not share. Taps must be of one kind and number of channels; another height and width is resized
as the probe's encoder resizes taps. Attention has a channel per token wherever it is read, so it may transfer; the
channels of activations mean something else in every block and every backbone, so little can be expected there.{dashes}
Read along a row how far a probe reaches, and down a column whether a probe of its own is worth training there (the
framed field against the others). Suspicious would be a row that is as good everywhere as at home although the arrays
differ, or a field clearly above the framed one of its column: then that place is not trained well."""


def section(material: Material) -> Section:
    """A matrix for each kind of transfer and a table of all, or the reasons why there is none."""
    found = transferred(material)
    if not found.matrices:
        return Section("transfer", TITLE, "", skipped=tuple(found.skipped))
    named = any(matrix.name != "evaluator" for matrix in found.matrices)
    evaluator = f" (of {evaluator_label(material.choice.evaluators[0])} but for the first matrix)" if named else ""
    widest = max(len(matrix.columns) for matrix in found.matrices)
    small = "; small print: 95 % interval over prompts"
    text = _EXPLANATION.format(
        evaluator=evaluator,
        intervals=small if widest <= MOST_INTERVALS else "; the table has the intervals",
        held=slice_text(main_slice(material.results)),
        dashes=_dashes(found.matrices),
        sampled=_sampled(found),
    )
    highest = max(abs(f.value.estimate) for m in found.matrices for _, _, f in m if f.value and _defined(f.value))
    scale = Normalize(-max(highest, 0.2), max(highest, 0.2))
    drawings = tuple(Drawing(f"transfer_{m.name}", _alt(m), _draw(m, scale)) for m in found.matrices)
    return Section("transfer", TITLE, text, drawings, tuple(found.skipped), (_table(material, found.matrices),))


def _draw(matrix: Matrix, scale: Normalize) -> Figure:
    labels = max(len(row) for row in matrix.rows)
    width = min(PAGE, 1.0 + 0.055 * labels + 0.78 * len(matrix.columns))
    figure = Figure(figsize=(width, 0.95 + 0.33 * len(matrix.rows)))
    ax = figure.subplots()
    values = np.full((len(matrix.rows), len(matrix.columns)), np.nan)
    for i, j, found in matrix:
        values[i, j] = found.value.estimate if found.value else np.nan
    ax.set_facecolor("#EEEEEE")
    ax.imshow(np.ma.masked_invalid(values), cmap=_MAP, norm=scale, aspect="auto")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    slant = 30 if max(len(column) for column in matrix.columns) > 12 else 0
    align = "right" if slant else "center"
    ax.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=slant, ha=align, rotation_mode="anchor")
    ax.set_yticks(range(len(matrix.rows)), matrix.rows)
    ax.set_title(matrix.title)
    ax.set_ylabel("trained on")
    ax.set_xlabel("tested on")
    small = len(matrix.columns) <= MOST_INTERVALS
    for i, j, found in matrix:
        _field(ax, (j, i), found.value, ink(_MAP(scale(values[i, j]))) if np.isfinite(values[i, j]) else "black", small)
        if found.home:
            frame = Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, fill=False, edgecolor=OKABE_ITO[5], lw=1.6, zorder=4)
            ax.add_patch(frame)
    return figure


def _field(ax: Axes, at: tuple[int, int], value: Value | None, color: str, small: bool) -> None:
    """The estimate, with its interval below where there is room; a dash where there is none."""
    if value is None or not _defined(value):
        ax.annotate("–", at, ha="center", va="center", fontsize=7)
        return
    lines = [(f"{value.estimate:.2f}", 6.5, 3.2 * small)]
    lines += [(f"[{value.lower:.2f}, {value.upper:.2f}]", 4.5, -4.5)] if small else []
    for text, size, raised in lines:
        ax.annotate(
            text.replace("-", "−"),
            at,
            (0, raised),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=color,
        )


def _table(material: Material, matrices: Sequence[Matrix]) -> Table:
    rows: list[tuple[str | Value | None, ...]] = [
        (
            matrix.title,
            matrix.rows[i],
            matrix.columns[j],
            found.value,
            "yes" if found.home else "no",
            found.reason or None,
        )
        for matrix in matrices
        for i, j, found in matrix
    ]
    return Table(
        "transfer",
        TITLE,
        f"Test split; steps, taps and backbones by {evaluator_label(material.choice.evaluators[0])}. Brackets: 95 % "
        "interval over prompts. At home: tested on what it was trained on, the ordinary result of "
        "that training seed. Why not: the reason for a dash.",
        ("transfer", "trained on", "tested on", METRICS["srcc_within"], "at home", "why not"),
        tuple(rows),
        long=True,
    )


def _dashes(matrices: Sequence[Matrix]) -> str:
    reasons = dict.fromkeys(found.reason for matrix in matrices for _, _, found in matrix if found.reason)
    return f" A dash: it cannot be tested ({'; '.join(reasons)}); the table has the reason of each." if reasons else ""


def _sampled(found: Found) -> str:
    fewest, prompts = min(found.sampled, default=(0, 0))
    if fewest == prompts:
        return ""
    return f" Those fields rest on {fewest} of {prompts} test prompts, at even distances; the framed ones on all."


def _alt(matrix: Matrix) -> str:
    return (
        f"Matrix of the within-prompt SRCC, {matrix.title}: probes trained on {', '.join(matrix.rows)}, tested on "
        f"{', '.join(matrix.columns)}."
    )


def _defined(value: Value) -> bool:
    return bool(np.isfinite(value.estimate))
