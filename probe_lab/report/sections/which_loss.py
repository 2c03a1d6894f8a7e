"""Which loss to train with: the answer, a figure and a table for every backbone and evaluator, and the sum of them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.errors import DataError
from probe_lab.report.analysis.objectives import (
    ALPHA,
    METRICS,
    REFERENCES,
    SELECTION,
    LossesCompared,
    LossSetting,
    Study,
    study,
    verdict,
)
from probe_lab.report.analysis.origin import origin_names
from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import GREY, MARKERS, OKABE_ITO, PAGE, evaluator_label, number_text
from probe_lab.report.layout.style import METRICS as METRIC_LABELS
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.safe_names import slug

TITLE = "Which loss?"

_EXPLANATION = """Rows are losses, those that validate best on top, the recommended one in bold; every figure is of one
{what}. Left and middle: mean over {seeds}, with the 95 % interval over test prompts; small pale dots are the single
training seeds. Right: the paired difference to {references}: what both share cancels, so these intervals are narrower
than those on the left suggest, and they alone say whether two losses are apart. {cover} Points are filled where the
two are told apart with all comparisons of this figure considered (Holm's p below 0.05), which asks for more than an
interval that leaves out 0: of twenty of those one does by chance. {settings} (read at {places}). The recommendation
rests on validation prompts alone; the test numbers beside it played no part.{missing} Suspicious would
be a loss at exactly 0 (it did not train), pale dots that lie further apart than the differences between losses, or an
order of the losses that turns round from one figure to the next: then the recommendation is luck."""
_COVER = "Intervals are about other prompts and other training seeds."
_ONE = (
    "With one training seed they are about other prompts alone: how much another training would differ is not in their "
    "width, so sweep three seeds or more before you believe a small difference."
)
_ALIKE = "All losses had the same settings: none was tuned, so a loss may gain from others"
_UNLIKE = "Settings that differ between losses stand beside their names, a loss with several has had more chances"


def section(material: Material) -> Section:
    """The answer in one sentence, a figure per backbone and evaluator, and tables; or the reason why there is none."""
    results = material.results
    parts = [results, *results.elsewhere]
    try:
        found = study(parts, material.choice.evaluators, material.choice.step)
    except DataError as error:
        return Section("which_loss", TITLE, "", skipped=(f"The losses cannot be compared: {error}.",))
    if found is None:
        text = "No two losses were trained at the same step and taps: add them to the sweep (probe.loss)."
        return Section("which_loss", TITLE, "", skipped=(text,))
    drawings = tuple(Drawing(f"which_loss_{_slug(found, pair)}", _alt(found, pair), _draw(found, pair))
                     for pair in found.pairs)  # fmt: skip
    skipped = tuple(
        f"{name}: no two of its losses were trained at the same step and taps."
        for name in origin_names([part.origin for part in parts])
        if name not in found.origins
    )
    tables = (summary_table(found), *(pair_table(found, pair) for pair in found.pairs))
    return Section("which_loss", TITLE, _explanation(found), drawings, skipped, tables, lead=verdict(found))


def summary_table(found: Study) -> Table:
    """A row per loss, over all backbones and evaluators; the recommended one first."""
    count = len(found.pairs)
    rows: list[tuple[Field, ...]] = [
        (
            one.label,
            found.validation(one),
            found.value(one, SELECTION),
            *(found.minus(one, other, SELECTION) if one != other else None for other in found.references.values()),
            found.distinct.get(one),
            found.value(one, "selection_gain"),
            round(found.rank(one), 1),
            f"{found.apart(one)} of {count}",
        )
        for one in found.objectives
    ]
    return Table(
        "which_loss",
        f"Losses over {count} pairs of backbone and evaluator" if len(found.origins) > 1 else "Losses over evaluators",
        "Means over all pairs. Losses are in the order of their within-prompt SRCC on validation prompts, which chose "
        f"the marked one; the other columns are of test prompts. Brackets: 95 % interval, paired for differences. "
        f"{_cover(found)} p: of this loss being as good on average as the marked one, by Holm over all of them. Mean "
        "rank: by SRCC on test prompts, 1 is best. Apart from the best: pairs in which the loss that is best on those "
        f"test prompts is ahead of this one, by Holm over all comparisons of the pair. {_references(found)}".strip(),
        (
            "loss",
            "validation SRCC within",
            "test SRCC within",
            *(f"SRCC minus {one.label}" for one in found.references.values()),
            "p",
            "selection gain",
            "mean rank",
            "apart from the best",
        ),
        tuple(rows),
        highlight=0,
    )


def pair_table(found: Study, pair: LossesCompared) -> Table:
    """A row per loss on one backbone by one evaluator."""
    rows: list[tuple[Field, ...]] = [
        (
            one.label,
            pair.outcomes[one].validation,
            *(
                field
                for metric in METRICS
                for field in (
                    pair.value(one, metric),
                    *(pair.minus(one, other, metric) if one != other else None for other in found.references.values()),
                )
            ),
            *(_apart(pair, one, other) for other in found.references.values()),
            "yes" if pair.apart(one) else "no",
            len(pair.outcomes[one].single[SELECTION]),
        )
        for one in found.objectives
    ]
    names = {"srcc_within": "SRCC within", "selection_gain": "gain"}
    return Table(
        f"which_loss_{_slug(found, pair)}",
        f"{pair.origin}: {evaluator_label(pair.evaluator)}" if _several(found) else evaluator_label(pair.evaluator),
        f"{pair.prompts} test prompts, {pair.place}; means over training seeds. Brackets: 95 % interval, paired for "
        f"differences. {_cover(found)} Apart: from the loss with the highest SRCC in this table; apart from a "
        "reference: both by the SRCC within prompts, Holm over all these comparisons.",
        (
            "loss",
            "validation SRCC within",
            *(
                column
                for metric in METRICS
                for column in (
                    names[metric],
                    *(f"{names[metric]} minus {one.label}" for one in found.references.values()),
                )
            ),
            *(f"apart from {one.label}" for one in found.references.values()),
            "apart",
            "training seeds",
        ),
        tuple(rows),
        highlight=0,
    )


def _draw(found: Study, pair: LossesCompared) -> Figure:
    count, references = len(found.objectives), found.references
    figure = Figure(figsize=(PAGE, 1.15 + 0.2 * count))
    axes = figure.subplots(1, 3 if references else 2, sharey=True)
    for ax, metric in zip(axes, METRICS, strict=False):
        for row, one in enumerate(found.objectives):
            single = pair.outcomes[one].single[metric]
            ax.plot(single, np.full(len(single), row + 0.26), "o", color=OKABE_ITO[0], ms=2, alpha=0.5, mew=0)
            _dot(ax, pair.value(one, metric), row, 0)
        ax.axvline(0, color="black", lw=0.6, zorder=1)
        ax.set_xlabel(METRIC_LABELS[metric])
    if references:
        _differences(axes[2], found, pair)
    ax = axes[0]
    ax.set_yticks(range(count), [one.label for one in found.objectives])
    ax.get_yticklabels()[0].set_fontweight("bold")
    ax.set_ylim(count - 0.5, -0.5)
    for ax in axes:
        ax.grid(axis="y", visible=False)
    title = f"{pair.origin}: {evaluator_label(pair.evaluator)}" if _several(found) else evaluator_label(pair.evaluator)
    figure.suptitle(title, fontsize=9, fontweight="bold", x=0.01, ha="left")
    if references:
        handles, names = axes[2].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _differences(ax: Axes, found: Study, pair: LossesCompared) -> None:
    """A whisker for each reference; hollow where the two are not told apart."""
    for i, other in enumerate(found.references.values(), start=1):
        at = (i - (len(found.references) + 1) / 2) * 0.36
        for row, one in enumerate(found.objectives):
            if one != other:
                value = pair.minus(one, other, SELECTION)
                _dot(ax, value, row + at, i, filled=pair.distinct[one, other] < ALPHA)
        ax.plot([], [], MARKERS[i], color=OKABE_ITO[i], ms=3.8, label=f"minus {other.label}")
    ax.axvline(0, color=GREY, lw=0.8, ls="--", zorder=1)
    ax.set_xlabel("difference of SRCC within prompts")


def _dot(ax: Axes, value: Value, row: float, i: int, *, filled: bool = True) -> None:
    color = OKABE_ITO[i]
    ax.hlines(row, value.lower, value.upper, color=color, lw=1.1, zorder=3)
    face = color if filled else "white"
    ax.plot(value.estimate, row, MARKERS[i], color=color, mfc=face, mec=color, ms=3.8, mew=0.7, zorder=4)


def _explanation(found: Study) -> str:
    fewest, most = found.seeds
    seeds = f"{fewest} training seed{'s' * (fewest > 1)}" if fewest == most else f"{fewest} to {most} training seeds"
    labels = [f"{one.label} ({REFERENCES[loss]})" for loss, one in found.references.items()]
    places = dict.fromkeys(f"{pair.origin}: {pair.place}" if _several(found) else pair.place for pair in found.pairs)
    missing = f" Not trained everywhere, or too many to show: {', '.join(found.left_out)}." if found.left_out else ""
    return _EXPLANATION.format(
        what="backbone and one evaluator, on that backbone's own images" if _several(found) else "evaluator",
        seeds=seeds,
        settings=_ALIKE if len({one.extra for one in found.objectives}) == 1 else _UNLIKE,
        cover=_cover(found),
        references=" and to ".join(labels) if labels else "(no reference was trained)",
        places="; ".join(places),
        missing=missing,
    )


def _cover(found: Study) -> str:
    """What the intervals are about."""
    return _COVER if found.seeds[0] > 1 else _ONE


def _apart(pair: LossesCompared, one: LossSetting, other: LossSetting) -> str | None:
    return None if one == other else "yes" if pair.distinct[one, other] < ALPHA else "no"


def _references(found: Study) -> str:
    told = [f"{one.label} is {REFERENCES[loss]}." for loss, one in found.references.items()]
    if any(one.loss == "listwise+infonce" for one in found.objectives):
        told.append("listwise + InfoNCE, weighed by probe.alignment, is the whole objective of Probe-Select.")
    return " ".join(told)


def _alt(found: Study, pair: LossesCompared) -> str:
    best = found.recommended
    return (
        f"Dots with intervals for {len(found.objectives)} losses on {pair.origin} by "
        f"{evaluator_label(pair.evaluator)}: SRCC within prompts, selection gain and paired differences; the "
        f"recommended one, {best.label}, has {number_text(pair.value(best, SELECTION).estimate)}."
    )


def _several(found: Study) -> bool:
    return len(found.origins) > 1


def _slug(found: Study, pair: LossesCompared) -> str:
    return f"{slug(pair.origin)}_{pair.evaluator}" if _several(found) else pair.evaluator
