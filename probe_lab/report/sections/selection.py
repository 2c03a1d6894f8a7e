"""What choosing early is worth: score and gain over the number of candidates, and score over compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.metrics import SelectionPoint, selection_gain_curve
from probe_lab.report.analysis.reads import reads_of
from probe_lab.report.analysis.results import Results, Variant
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import GREY, MARKERS, OKABE_ITO, PAGE, evaluator_label, model_label

_EXPLANATION = """N images of one prompt are begun, the one with the highest prediction is finished. Left:
its mean true score over test prompts, exactly averaged over all subsets of N seeds; between "random seed"
(no choice) and "oracle" (the best of the N) lies what there is to gain. Middle: the share of that which is
gained, 0 = random, 1 = oracle.{compute} Shaded: 95 % interval of the best probe over test prompts; lines
are means over training seeds. The oracle must rise and random must be flat; a probe's score should rise
with N and flatten. Suspicious would be shuffled labels or prompt only above random by more than the
shading is wide."""
_COMPUTE = """ Right: the same scores over what they cost, in images generated in full: N candidates to step
{step} of {steps}{ahead} and one to the end cost {share:.2f}·N + {rest:.2f}; the oracle has to finish (and score)
all N.{unpriced} Left of the oracle's line means: more quality for the same compute."""

_BASELINES = (*OKABE_ITO[1:6], "#999999")  # blue is the best probe, black the oracle


@dataclass(frozen=True)
class Curve:
    """Mean over training seeds, one entry per N of ``counts``."""

    counts: list[int]
    score: npt.NDArray[np.float64]  # [N, 3] estimate, lower, upper
    gain: npt.NDArray[np.float64]  # [N, 3]
    oracle: npt.NDArray[np.float64]  # [N]
    random: npt.NDArray[np.float64]  # [N]


def section(material: Material) -> Section:
    """One figure per evaluator that the best probe predicts, or the reason why there is none."""
    title = "Selection over N"
    drawings, skipped = [], []
    for evaluator in material.choice.evaluators:
        best = selection_curve(material.results, material.choice.best, evaluator)
        if best is None:
            skipped.append(
                f"{evaluator_label(evaluator)}: the best probe does not predict it, or its prompts have one seed each."
            )
            continue
        found = {name: selection_curve(material.results, v, evaluator) for name, v in material.choice.baselines.items()}
        others = {name: curve for name, curve in found.items() if curve is not None}
        drawings.append(_draw(material, evaluator, best, others))
    compute = ""
    if material.cache:
        reads = reads_of(material.results, material.choice.best)
        share, rest = _price(material, material.cache.manifest.steps)
        compute = _COMPUTE.format(
            step=material.choice.step,
            steps=material.cache.manifest.steps,
            ahead=", with one more denoiser call each for the lookahead," if reads.looks_ahead else "",
            share=share,
            rest=rest,
            unpriced=f" The best probe takes {reads.needs} for every candidate; only calls are on the axis."
            if reads.scores
            else "",
        )
    else:
        skipped.append("Score over compute: it needs the number of steps, so the report has to be given the cache.")
    text = _EXPLANATION.format(compute=compute).replace("Middle", "Middle" if compute else "Right")
    return Section("selection", title, text if drawings else "", tuple(drawings), tuple(skipped))


def selection_curve(results: Results, variant: Variant, evaluator: str) -> Curve | None:
    """The curve of one variant on the test split; None when it does not predict the evaluator or N is 1
    throughout."""
    tables = [results.predictions(cell, evaluator) for cell in results.seeds(variant).values()]
    if not tables or any(table.empty for table in tables):
        return None
    # Prompts with fewer candidates (a score is missing) are left out; most must stay.
    counts = list(range(1, int(tables[0].groupby("prompt_id").size().median()) + 1))
    if len(counts) < 2:
        return None
    points = of_trainings(tables, counts).values()
    return Curve(
        counts,
        np.array([(p.score.estimate, p.score.lower, p.score.upper) for p in points]),
        np.array([(p.gain.estimate, p.gain.lower, p.gain.upper) for p in points]),
        np.array([p.oracle.estimate for p in points]),
        np.array([p.random.estimate for p in points]),
    )


def of_trainings(tables: Sequence[pd.DataFrame], counts: Sequence[int]) -> dict[int, SelectionPoint]:
    """Selection among N for every N of ``counts``, mean over trainings of the same images, by their predictions."""
    predictions = np.stack([table["prediction"].to_numpy(float) for table in tables])
    return selection_gain_curve(predictions, tables[0]["target"], tables[0]["prompt_id"], counts)


def _draw(material: Material, evaluator: str, best: Curve, others: dict[str, Curve]) -> Drawing:
    figure = Figure(figsize=(PAGE, 2.75))
    axes = figure.subplots(1, 3 if material.cache else 2)
    label = evaluator_label(evaluator)
    _scores(axes[0], best, others)
    _gains(axes[1], best, others)
    axes[0].set_ylabel(f"mean {label}")
    if material.cache:
        _compute(axes[2], best, *_price(material, material.cache.manifest.steps))
        axes[2].set_ylabel(f"mean {label}")
        axes[2].set_ylim(axes[0].get_ylim())
    figure.suptitle(label, fontsize=9, fontweight="bold", x=0.01, ha="left")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5)
    alt = (
        f"Line charts of the mean {label} of the chosen image and of the selection gain over the number of "
        "candidates, "
        f"for the best probe, random choice, the oracle and {len(others)} baselines."
    )
    return Drawing(f"selection_{evaluator}", alt, figure)


def _scores(ax: Axes, best: Curve, others: dict[str, Curve]) -> None:
    ax.plot(best.counts, best.oracle, color="black", ls="--", lw=1, label="oracle")
    _lines(ax, {name: (curve.counts, curve.score[:, 0]) for name, curve in others.items()})
    ax.plot(best.counts, best.random, color=GREY, ls=":", lw=1.2, label="random seed")
    ax.fill_between(best.counts, best.score[:, 1], best.score[:, 2], color=OKABE_ITO[0], alpha=0.13, lw=0)
    ax.plot(best.counts, best.score[:, 0], color=OKABE_ITO[0], marker="o", lw=1.6, label="best probe", zorder=4)
    ax.set_title("score of the choice")
    _candidates(ax, best.counts)


def _gains(ax: Axes, best: Curve, others: dict[str, Curve]) -> None:
    # With one candidate there is nothing to choose: the gain starts at two.
    ax.axhline(0, color=GREY, ls=":", lw=1.2)
    ax.axhline(1, color="black", ls="--", lw=1)
    _lines(ax, {name: (curve.counts[1:], curve.gain[1:, 0]) for name, curve in others.items()})
    x = best.counts[1:]
    ax.fill_between(x, best.gain[1:, 1], best.gain[1:, 2], color=OKABE_ITO[0], alpha=0.13, lw=0)
    ax.plot(x, best.gain[1:, 0], color=OKABE_ITO[0], marker="o", lw=1.6, zorder=4)
    ax.set_title("selection gain")
    ax.set_ylabel("0 = random, 1 = oracle")
    _candidates(ax, x)


def _price(material: Material, steps: int) -> tuple[float, float]:
    """What the best probe's choice costs, in images of so many ``steps``: for every candidate, and for the one that is
    finished."""
    step, ahead = material.choice.step, reads_of(material.results, material.choice.best).looks_ahead
    return (step + ahead) / steps, 1 - step / steps


def _compute(ax: Axes, best: Curve, share: float, rest: float) -> None:
    counts = np.array(best.counts)
    ax.plot(counts, best.oracle, color="black", ls="--", lw=1)
    ax.axhline(best.random[0], color=GREY, ls=":", lw=1.2)
    cost = share * counts + rest
    ax.fill_between(cost, best.score[:, 1], best.score[:, 2], color=OKABE_ITO[0], alpha=0.13, lw=0)
    ax.plot(cost, best.score[:, 0], color=OKABE_ITO[0], marker="o", lw=1.6, zorder=4)
    last = f"N = {counts[-1]}"
    ax.annotate(last, (cost[-1], best.score[-1, 0]), (5, -2), textcoords="offset points", fontsize=6.5, va="top")
    ax.annotate(
        last,
        (counts[-1], best.oracle[-1]),
        (0, -5),
        textcoords="offset points",
        fontsize=6.5,
        va="top",
        ha="center",
    )
    ax.set_title("score over compute")
    ax.set_xlabel("cost (images generated in full)")


def _lines(ax: Axes, lines: dict[str, tuple[list[int], npt.NDArray[np.float64]]]) -> None:
    for i, (name, (x, y)) in enumerate(lines.items(), start=1):
        color, marker = _BASELINES[(i - 1) % len(_BASELINES)], MARKERS[i % len(MARKERS)]
        ax.plot(x, y, color=color, marker=marker, ms=2.6, lw=0.9, label=model_label(name))


def _candidates(ax: Axes, counts: list[int]) -> None:
    stride = -(-len(counts) // 8)
    ax.set_xticks(counts[::stride])
    ax.set_xlabel("candidates N")
