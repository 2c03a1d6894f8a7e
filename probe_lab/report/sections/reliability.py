"""Reliability of the predicted score: when a probe says 0.8, is it 0.8?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.errors import ReportError
from probe_lab.json_text import read_json
from probe_lab.metrics import Measured
from probe_lab.metrics.bootstrap import PromptRatio
from probe_lab.metrics.measured import left_out_in_turn
from probe_lab.metrics.per_prompt import Floats
from probe_lab.probes.kinds import recorded
from probe_lab.regular_files import regular
from probe_lab.report.analysis.chosen import variant_text
from probe_lab.report.analysis.intervals import draws, measured_value, value_of
from probe_lab.report.analysis.results import Results, Value, Variant
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import GREY, LIGHT, OKABE_ITO, PAGE, evaluator_label, model_label
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.runs import DESCRIPTION

TITLE = "Reliability of the predicted score"
BINS = 10
COLUMNS = 3

_EXPLANATION = """Test images in {bins} groups of equal size by what the best probe ({best}, training seed {seed}, the
first one) predicted for them: the mean prediction of a group (across) and the mean of its true scores (up), with the
95 % interval over prompts. On the dashed diagonal predictions can be taken at their word; above it the
probe is too pessimistic, below too optimistic; a line flatter than the diagonal says that predictions differ more than
scores do. Grey bars: where the predictions lie. Dotted: the straight line through all images, score = intercept + slope
· prediction. ECE, the expected calibration error, is the mean distance of the groups from the diagonal; in the titles
it is in standard deviations of the true score, mean over training seeds. Even right predictions have an ECE above 0,
since groups are finite: the table says what to expect by chance. A ranking loss fixes only the order of predictions;
their units come from a straight line that is fitted on the validation images after training ({calibrated}). With the
squared error there is no such line, and a probe that knows its training prompts better than new ones is too sure of
itself: a slope below 1. Choosing among the seeds of a prompt depends on none of this, a threshold on the score does.
Suspicious would be a slope far from 1 in spite of the line, unless validation has few prompts, or groups of very
different predictions whose true scores are the same."""
_BEFORE = "“before” in the table is without it"
_NO_BEFORE = "none is stored with this probe, or its loss needs none"
_FELL_BACK = "none of the trainings has a rising one, so that “before” in the table is the same as after"


@dataclass(frozen=True)
class Bins:
    """Groups of equal size by prediction, ascending: mean prediction [B], the mean target of each, its size [B]."""

    prediction: Floats
    target: tuple[Value, ...]
    size: Floats


@dataclass(frozen=True)
class Calibration:
    """How far predictions can be taken at their word; ``chance`` is the ``error`` expected of right predictions.

    The error has no interval: it is a sum of absolute values, above 0 even where predictions are right, so that what
    it lies around is not its truth. ``chance`` is what to hold it against.
    """

    slope: Value
    intercept: Value
    error: float
    chance: float
    deviation: float

    @property
    def relative(self) -> float:
        """The error in standard deviations of the target."""
        return self.error / self.deviation


def section(material: Material) -> Section:
    """One figure with a panel per evaluator that the best probe predicts, and a table with the baselines."""
    results, best = material.results, material.choice.best
    seed, cell = next(iter(results.seeds(best).items()))
    tables = {name: results.predictions(cell, name) for name in material.choice.evaluators}
    skipped = []
    for name, table in tables.items():
        if table.empty:
            skipped.append(f"The best probe does not predict {evaluator_label(name)}.")
        elif not varies(table):
            skipped.append(f"{evaluator_label(name)}: all test images have the same score.")
    shown = {name: table for name, table in tables.items() if varies(table)}
    if not shown:
        return Section("reliability", TITLE, "", skipped=tuple(skipped))
    found = {name: of_variant(results, best, name) for name in shown}
    before = {name: of_variant(results, best, name, calibrated=False) for name in shown}
    text = _EXPLANATION.format(
        bins=BINS,
        best=variant_text(best),
        seed=seed,
        calibrated=_calibrated(results, best, before),
    ) + order_note(results, best, shown)
    names = ", ".join(evaluator_label(name) for name in shown)
    alt = f"Mean true score over mean predicted score in {BINS} groups of test images, one panel for each of: {names}."
    drawing = Drawing("reliability", alt, _draw(shown, found))
    numbers = _table(material, found, before)
    return Section("reliability", TITLE, text, (drawing,), tuple(skipped), (numbers,))


def _calibrated(results: Results, variant: Variant, before: Mapping[str, Calibration | None]) -> str:
    """What became of the straight lines through validation images."""
    names = [name for name, found in before.items() if found is not None]
    if not names:
        return _NO_BEFORE
    cells = results.seeds(variant).values()
    return _FELL_BACK if all({*names} <= {*unscaled(results, cell)} for cell in cells) else _BEFORE


def varies(table: pd.DataFrame) -> bool:
    """Whether there is anything to predict."""
    return len(table) > 0 and bool(np.ptp(table["target"]) > 0)


def bins_of(table: pd.DataFrame) -> Bins:
    """``BINS`` groups of ``table`` (prompt_id, target, prediction); images of equal predictions stay together."""
    number = _bin(table)
    prompts, row = np.unique(table["prompt_id"], return_inverse=True)
    size = np.bincount(number).astype(np.float64)
    cells = row * len(size) + number
    shape = len(prompts), len(size)
    total = np.bincount(cells, weights=table["target"], minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    count = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    nobody = np.zeros(len(prompts), np.bool_)
    target = tuple(value_of(PromptRatio(total[:, i], count[:, i], nobody)) for i in range(shape[1]))
    return Bins(np.bincount(number, weights=table["prediction"]) / size, target, size)


def calibration(*tables: pd.DataFrame) -> Calibration:
    """Slope and intercept of the target on the prediction, and the calibration error, over all images of each of
    ``tables`` (trainings that predict the same images), and the mean over them."""
    lines = [_deleted_lines(table) for table in tables]  # each [2, 1 + G]
    slope, intercept = (
        Measured.of_jackknife(values[:, 0], values[:, 1:], tables[0]["prompt_id"].nunique(), "plain")
        for values in np.stack(lines, axis=1)
    )
    errors = np.array([_errors(table) for table in tables])
    return Calibration(
        measured_value(slope),
        measured_value(intercept),
        float(errors[:, 0].mean()),
        float(errors[:, 1].mean()),
        float(np.mean([table["target"].std(ddof=0) for table in tables])),
    )


def _deleted_lines(table: pd.DataFrame) -> Floats:
    """``[2, 1 + G]``: slope and intercept, first of all images, then without the images of each prompt (or group)."""
    prompts, row = np.unique(table["prompt_id"], return_inverse=True)
    # Centred, so that sums of squares do not cancel.
    x0, y0 = table["prediction"].mean(), table["target"].mean()
    x, y = table["prediction"].to_numpy(float) - x0, table["target"].to_numpy(float) - y0
    moments = np.stack([np.bincount(row, weights=v) for v in (np.ones_like(x), x, y, x * x, x * y)], axis=1)
    weights = np.concatenate([np.ones((1, len(prompts))), left_out_in_turn(len(prompts))])
    slope, intercept = _lines(weights @ moments)
    return np.stack([slope, intercept + y0 - slope * x0])


def _errors(table: pd.DataFrame) -> tuple[float, float]:
    """The calibration error, and the one that right predictions would have: its mean over resampled prompts about the
    gaps that were found."""
    prompts, row = np.unique(table["prompt_id"], return_inverse=True)
    number = _bin(table)
    width = int(number.max()) + 1
    gap = (table["target"] - table["prediction"]).to_numpy(float)
    gaps = np.bincount(row * width + number, weights=gap, minlength=len(prompts) * width).reshape(len(prompts), width)
    weights = draws(len(prompts))
    total = gaps.sum(axis=0)
    noise = np.abs(weights @ gaps - total).sum(axis=1) / (weights @ np.bincount(row).astype(np.float64))
    return float(np.abs(total).sum() / len(gap)), float(noise.mean())


def unscaled(results: Results, cell: str) -> tuple[str, ...]:
    """Evaluators for which a ranking loss left the probe without units: no rising line leads to the true scores."""
    return tuple(_targets(results, cell).get("unscaled", ()))


def _targets(results: Results, cell: str) -> dict[str, Any]:
    """What ``probe.json`` says of the units of predictions; nothing where there is no such file.

    Raises:
        ReportError: it is damaged, or not the file that was written with the cell.
    """
    finished = results.trained[cell]
    path = finished.folder / DESCRIPTION
    if not path.exists():
        return {}
    finished.require(DESCRIPTION)
    try:
        return dict(read_json(regular(path).read_bytes()).get("targets", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} cannot be read ({error}): train the cell again") from error


def order_note(results: Results, variant: Variant, evaluators: Iterable[str]) -> str:
    """A sentence on the evaluators of which the order alone is predicted, with a space before it; "" for none."""
    cells = results.seeds(variant).values()
    found = {name: sum(name in unscaled(results, cell) for cell in cells) for name in evaluators}
    told = [f"{evaluator_label(name)} ({count} of {len(cells)} trainings)" for name, count in found.items() if count]
    if not told:
        return ""
    return (
        f" No rising line leads from predictions to true scores on validation images for {', '.join(told)}: these "
        "predictions have no units, only their order means something, and distances from the diagonal mean nothing."
    )


def uncalibrated(results: Results, cell: str, evaluator: str, table: pd.DataFrame) -> pd.DataFrame | None:
    """The predictions without the line of ``Probe.calibrate``; None where none was wanted, or no probe.json says so.

    Where no rising line was found (``unscaled``), the predictions are without one already.
    """
    targets = _targets(results, cell)
    if evaluator not in targets.get("evaluators", []) or "slope" not in targets:
        return None
    if evaluator in targets.get("unscaled", ()):
        return table
    at = targets["evaluators"].index(evaluator)
    mean, std, slope, shift = (targets[name][at] for name in ("mean", "std", "slope", "shift"))
    if (slope, shift) == (1.0, 0.0):
        return None
    raw = ((table["prediction"] - mean) / std - shift) / slope
    return table.assign(prediction=mean + std * raw)


def _bin(table: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The group of every image, 0 … at most ``BINS`` − 1, none of them empty."""
    edges = np.quantile(table["prediction"], np.arange(1, BINS) / BINS)
    number = np.searchsorted(edges, table["prediction"], side="right")
    return np.asarray(np.unique(number, return_inverse=True)[1], np.int64)


def _lines(moments: Floats) -> Floats:
    """``[2, R]``: least-squares slope and intercept from sums of 1, x, y, x², xy; slope 0 for constant predictions."""
    n, x, y, xx, xy = moments.T
    spread = n * xx - x * x
    usable = spread > 1e-12 * np.maximum(n * xx, 1e-300)
    slope = np.where(usable, (n * xy - x * y) / np.where(usable, spread, 1.0), 0.0)
    return np.stack([slope, (y - slope * x) / n])


def of_variant(results: Results, variant: Variant, evaluator: str, *, calibrated: bool = True) -> Calibration | None:
    """Mean over training seeds; None where nothing is predicted (or calibrated)."""
    found = []
    for cell in results.seeds(variant).values():
        table: pd.DataFrame | None = results.predictions(cell, evaluator)
        if table is None or not varies(table):
            return None
        if not calibrated:
            table = uncalibrated(results, cell, evaluator, table)
        if table is not None:
            found.append(table)
    return calibration(*found) if found else None


def _draw(tables: dict[str, pd.DataFrame], found: dict[str, Calibration | None]) -> Figure:
    columns = min(len(tables), COLUMNS)
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(PAGE, 2.5 * lines))
    axes = figure.subplots(lines, columns, squeeze=False)
    for i, (ax, (name, table)) in enumerate(zip(axes.flat, tables.items(), strict=False)):
        _panel(ax, table)
        known = found[name]
        assert known is not None
        numbers = f"slope {known.slope.estimate:.2f}, ECE {known.relative:.2f} SD".replace("-", "−")
        ax.set_title(f"{evaluator_label(name)}\n{numbers}")
        ax.set_xlabel("predicted score")
        if i % columns == 0:
            ax.set_ylabel("true score, mean")
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    return figure


def _panel(ax: Axes, table: pd.DataFrame) -> None:
    bins = bins_of(table)
    values = np.array([(v.estimate, v.lower, v.upper) for v in bins.target])
    line = calibration(table)
    low, high = _range(np.concatenate([values.ravel(), bins.prediction]))
    ends = np.array([low, high])
    bars = ax.inset_axes((0.0, 0.0, 1.0, 0.16))
    bars.hist(table["prediction"], bins=30, range=(low, high), color=LIGHT)
    bars.set_axis_off()
    bars.set_xlim(low, high)
    ax.plot(ends, ends, color=GREY, ls="--", lw=0.9, zorder=2)
    ax.plot(ends, line.intercept.estimate + line.slope.estimate * ends, color=OKABE_ITO[0], ls=":", lw=1, zorder=2)
    ax.vlines(bins.prediction, values[:, 1], values[:, 2], color=OKABE_ITO[0], lw=1.1, zorder=3)
    ax.plot(bins.prediction, values[:, 0], "o-", color=OKABE_ITO[0], ms=3.2, lw=0.9, zorder=4)
    ax.set_xlim(low, high)
    ax.set_ylim(low - 0.16 * (high - low), high)  # room for the bars


def _range(values: Floats) -> tuple[float, float]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))  # bounds of few prompts may not be known
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _table(material: Material, best: dict[str, Calibration | None], before: dict[str, Calibration | None]) -> Table:
    rows: list[tuple[Field, ...]] = []
    for evaluator, found in best.items():
        baselines = [(name, variant) for name, variant in material.choice.baselines.items() if recorded(name).estimates]
        others = {model_label(name): of_variant(material.results, v, evaluator) for name, v in baselines}
        models = {"best probe": found, "best probe, before": before[evaluator]} | others
        rows += _rows(evaluator_label(evaluator), models.items())
    return Table(
        "reliability",
        TITLE,
        f"Test split, step {material.choice.step}. Slope and intercept of the true score over the prediction (1 and 0 "
        f"are right); expected calibration error over {BINS} groups of equal size, in the evaluator's units and in "
        "standard deviations of the true score; by chance: what right predictions would show on as many images "
        "(from resampled prompts). Before: without the line that a ranking loss needs, fitted on validation images. "
        "Brackets: 95 % interval over prompts, and over training seeds where there are several; an ECE has none, since "
        "it is above 0 by chance even where predictions are right.",
        ("evaluator", "model", "slope", "intercept", "ECE", "ECE / SD", "by chance / SD"),
        tuple(rows),
        long=True,
    )


def _rows(evaluator: str, models: Iterable[tuple[str, Calibration | None]]) -> list[tuple[Field, ...]]:
    return [
        (evaluator, name, c.slope, c.intercept, c.error, c.relative, c.chance / c.deviation)
        for name, c in models
        if c is not None
    ]
