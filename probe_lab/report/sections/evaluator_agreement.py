"""How the evaluators agree with each other: do two of them keep the same seed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from probe_lab.errors import CacheError
from probe_lab.metrics import Agreement, Interval, Spread, agreements, spreads
from probe_lab.metrics.agreement import EvaluatorPair
from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import METRICS, PAGE, evaluator_label, ink, number_text
from probe_lab.report.layout.table_forms import Table

TITLE = "How the evaluators agree"
MOST_INTERVALS = 5
"""With more evaluators the fields are too small for intervals; the table has them."""

# Red and blue differ for colour-blind readers too, and white is "unrelated". Few colours: a PNG keeps 256.
_MAP = mpl.colormaps["RdBu"].resampled(20)
_SCALE = Normalize(-1.0, 1.0)
_PANELS = {"within": "within prompts: the same seed?", "overall": "all images: prompt difficulty included"}

_EXPLANATION = """Spearman's correlation between the scores that two evaluators give to the same finished images.
Left: among the seeds of one prompt, mean over prompts; it says whether the two would keep the same seed. Right: over
all images at once, which also rewards agreeing on which prompts are hard. {intervals} What evaluators think of
finished images is no result of a probe, so all {images} images of the cache count, those of training prompts too. A
prompt whose seeds all have the same score from one of two evaluators is left out of that pair within prompts, and
counted in the table.{missing} Read the left panel for how far a probe of one evaluator can serve another: where it is
near 0 they want different seeds, and each needs its own probe. Suspicious would be a field near 1 (one evaluator under
two names), or one clearly below 0 (a score with its sign turned) unless the two are known to pull apart."""


@dataclass(frozen=True)
class Scored:
    """The evaluators that have scores, and every two of them; ``images`` is how many could have been scored."""

    spreads: dict[str, Spread]
    pairs: dict[EvaluatorPair, Agreement]
    images: int

    @property
    def names(self) -> list[str]:
        return list(self.spreads)


def scored(material: Material, evaluators: Sequence[str]) -> Scored | None:
    """What the cache knows of these evaluators; None without a cache, or when it has scores of none of them.

    Raises ScoreError for a damaged score file, CacheError where no shard is complete.
    """
    cache = material.cache
    names = [name for name in dict.fromkeys(evaluators) if cache and name in cache.evaluators()]
    if cache is None or not names:
        return None
    samples = cache.picture_samples
    if samples.empty:
        raise CacheError(f"the cache {cache.folder} has no complete shard left: `probe-lab generate` makes it again")
    scores = {name: cache.scores(name)[samples["sample_id"]] for name in names}
    prompts = samples["prompt_id"].to_numpy()
    return Scored(spreads(scores, prompts), agreements(scores, prompts), len(samples))


def section(scored: Scored | None, evaluators: Sequence[str]) -> Section:
    """One figure with both matrices, or the reason why there is none."""
    if scored is None:
        text = "The agreement of evaluators is read from the cache, and the report has no cache with their scores."
        return Section("agreement", TITLE, "", skipped=(text,))
    skipped = tuple(
        f"{evaluator_label(name)}: the cache has no scores of it." for name in evaluators if name not in scored.names
    )
    if len(scored.names) < 2:
        text = (
            f"Only {evaluator_label(scored.names[0])} has scores: add a second evaluator to `evaluators` and run "
            "`probe-lab score`."
        )
        return Section("agreement", TITLE, "", skipped=(*skipped, text))
    explanation = _EXPLANATION.format(
        images=f"{scored.images:,}".replace(",", " "), intervals=_intervals(scored), missing=_missing(scored)
    )
    drawing = Drawing("agreement", _alt(scored), _draw(scored))
    return Section("agreement", TITLE, explanation, (drawing,), skipped)


def tables(scored: Scored) -> list[Table]:
    """Every pair with its intervals, if there is one, and the spread of every evaluator."""
    return ([_pairs_table(scored)] if scored.pairs else []) + [_spread_table(scored)]


def matrix(scored: Scored, name: str) -> npt.NDArray[np.float64]:
    """``[E, E]``: the estimates of one panel ("within" or "overall"); nan on the diagonal and where undefined."""
    names = scored.names
    values = np.full((len(names), len(names)), np.nan)
    for (a, b), found in scored.pairs.items():
        i, j = names.index(a), names.index(b)
        values[i, j] = values[j, i] = getattr(found, name).estimate
    return values


def _draw(scored: Scored) -> Figure:
    count = len(scored.names)
    figure = Figure(figsize=(PAGE, 1.0 + max(0.34 * min(count, 3), 0.25 * count)))
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
        _panel(ax, scored, name)
        ax.set_title(title)
    bar = figure.colorbar(ScalarMappable(_SCALE, _MAP), ax=axes, fraction=0.03, pad=0.015, aspect=30)
    bar.set_label("SRCC")
    bar.outline.set_visible(False)
    return figure


def _panel(ax: Axes, scored: Scored, name: str) -> None:
    values = matrix(scored, name)
    ax.imshow(np.ma.masked_invalid(values), cmap=_MAP, norm=_SCALE, aspect="auto")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    labels = [evaluator_label(each) for each in scored.names]
    slant = 35 if len(labels) > 3 else 0
    ax.set_xticks(range(len(labels)), labels, rotation=slant, ha="right" if slant else "center", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    for pair, agreed in scored.pairs.items():
        i, j = (scored.names.index(evaluator) for evaluator in pair)
        for at in ((i, j), (j, i)):
            _field(ax, at, getattr(agreed, name), len(labels))


def _field(ax: Axes, at: tuple[int, int], found: Interval, count: int) -> None:
    """The estimate in one field, with its interval below where there is room."""
    defined = np.isfinite(found.estimate)
    color = ink(_MAP(_SCALE(found.estimate))) if defined else "black"
    small = defined and count <= MOST_INTERVALS
    lines = [(number_text(found.estimate), min(6.5, 54 / count), 3.0 * small)]
    lines += [(f"[{number_text(found.lower)}, {number_text(found.upper)}]", 4.5, -4.5)] if small else []
    for text, size, raised in lines:
        ax.annotate(
            text,
            at[::-1],
            (0, raised),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=color,
        )


def _pairs_table(scored: Scored) -> Table:
    rows = tuple(
        (
            evaluator_label(a),
            evaluator_label(b),
            _value(found.within),
            _value(found.overall),
            found.images,
            found.within.prompts,
            found.within.tied,
        )
        for (a, b), found in scored.pairs.items()
    )
    return Table(
        "agreement",
        TITLE,
        "Spearman's correlation of two evaluators' scores of the same images, all splits, each with its 95 % interval "
        "over prompts. Left out within prompts: prompts whose seeds all have the same score from one "
        "of the two.",
        ("evaluator", "with", METRICS["srcc_within"], METRICS["srcc"], "images of both", "prompts", "left out"),
        rows,
        long=True,
    )


def _spread_table(scored: Scored) -> Table:
    rows = tuple(
        (
            evaluator_label(name),
            found.mean,
            found.deviation,
            _value(found.within),
            _value(found.range),
            found.images,
            found.missing,
            found.tied,
        )
        for name, found in scored.spreads.items()
    )
    return Table(
        "spread",
        "What there is to choose from",
        "Scores of the finished images, all splits: mean and standard deviation over all images; standard deviation "
        "and range (highest minus lowest) among the seeds of one prompt, mean over prompts with a 95 % interval over "
        "prompts. Tied prompts, whose seeds all have the same score, count as 0. Missing images have "
        "no score, for instance because they could not be read.",
        ("evaluator", "mean", "SD, all images", "SD within prompts", "range within prompts", "images", "missing",
         "tied prompts"),
        rows,
        digits=4,
    )  # fmt: skip


def _value(found: Interval) -> Value:
    return Value(found.estimate, found.lower, found.upper, found.p)


def _intervals(scored: Scored) -> str:
    if len(scored.names) <= MOST_INTERVALS:
        return "Small print: 95 % interval over prompts."
    return "The table has the 95 % intervals, over prompts."


def _missing(scored: Scored) -> str:
    lacking = [f"{evaluator_label(name)} {found.missing}" for name, found in scored.spreads.items() if found.missing]
    if not lacking:
        return ""
    return f" Images without a score ({', '.join(lacking)}) are left out of that evaluator's pairs."


def _alt(scored: Scored) -> str:
    names = ", ".join(evaluator_label(name) for name in scored.names)
    return f"Two matrices of the rank correlation between evaluators, within prompts and over all images: {names}."
