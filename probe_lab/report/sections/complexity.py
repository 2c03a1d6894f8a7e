"""Results by prompt complexity: does the probe still rank seeds where a prompt asks for much?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.errors import ConfigError
from probe_lab.metrics import WithinMetric
from probe_lab.metrics.bootstrap import PromptRatio
from probe_lab.probes.kinds import recorded
from probe_lab.report.analysis.intervals import by_prompt, part_of, value_over
from probe_lab.report.analysis.results import Results, Value, Variant
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import (
    GREY,
    MARKERS,
    METRICS,
    OKABE_ITO,
    PAGE,
    evaluator_label,
    legend_label,
    model_label,
)
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.shapes.captions import parse_caption

TITLE = "Results by prompt complexity"
BINS = 4
SMALLEST = 4
"""Prompts of a bin; the interval of fewer says nothing and only stretches the axis."""
SHOWN: tuple[WithinMetric, ...] = ("srcc_within", "selection_gain")
MOST_BASELINES = 3

_EXPLANATION = """Test prompts in groups of like complexity: {by}. Under every group stands n, its number of test
prompts (never fewer than {smallest}); groups of words hold about equally many, as far as whole numbers of words allow.
Blue: the best probe; the others: baselines at step {step}. Points are means over training seeds, whiskers the 95 %
interval over the prompts of the group, and over training seeds where there are several; prompts whose seeds
all have the same score are left out, the table counts them. Read each panel from left to right: a probe that falls
with complexity knows single objects but not how they go together; one that rises profits from seeds that differ more.
Groups whose whiskers overlap much are not told apart.{unparsed} Suspicious would be a probe that is good in one group
only: look whether that group's prompts resemble the training prompts."""


@dataclass(frozen=True)
class ComplexityMeasure:
    """One measure of complexity: the label of each bin, and the bin of every test prompt (prompt_id -> number)."""

    name: str
    labels: tuple[str, ...]
    bins: pd.Series[int]

    @property
    def sizes(self) -> list[int]:
        return [int((self.bins == i).sum()) for i in range(len(self.labels))]


@dataclass(frozen=True)
class Score:
    """A metric in one bin, mean over training seeds; ``tied`` prompts are left out of ``prompts``."""

    value: Value
    prompts: int
    tied: int


def section(material: Material) -> Section:
    """One figure with a row per evaluator and a table, or the reason why there is none."""
    results, choice = material.results, material.choice
    if material.cache is None:
        text = "The prompts' texts are read from the cache, and the report was made without it."
        return Section("complexity", TITLE, "", skipped=(text,))
    prompts = material.cache.samples.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    cell = next(iter(results.seeds(choice.best).values()))
    tables = {name: results.predictions(cell, name) for name in choice.evaluators}
    evaluators = [name for name, table in tables.items() if not table.empty]
    skipped = [f"The best probe does not predict {evaluator_label(n)}." for n in tables if n not in evaluators]
    tested = np.unique(np.concatenate([table["prompt_id"] for table in tables.values()]))
    scales, unparsed, missing = _scales(prompts.loc[tested])
    skipped += missing
    if not scales or not evaluators:
        return Section("complexity", TITLE, "", skipped=tuple(skipped))
    variants = compared(material)
    scores: Scores = {}
    for evaluator in evaluators:
        for variant in variants:
            for metric, found in by_scale(results, variant, evaluator, scales).items():
                scores[evaluator, variant, metric] = found
    drawing = Drawing("complexity", _alt(evaluators, scales, variants), _draw(material, evaluators, scales, scores))
    text = _EXPLANATION.format(
        by=" and ".join(f"by the number of {scale.name}" for scale in scales),
        step=choice.step,
        unparsed=unparsed,
        smallest=SMALLEST,
    )
    return Section("complexity", TITLE, text, (drawing,), tuple(skipped), (_table(material, scales, scores),))


def _scales(prompts: pd.Series[str]) -> tuple[list[ComplexityMeasure], str, list[str]]:
    """The scales that tell these prompts apart, a sentence on prompts without objects, and what is missing."""
    objects = prompts.map(count_objects).dropna().astype(int)
    words = prompts.map(lambda text: len(text.split()))
    found = [equal_bins("words", words)]
    if objects.empty:
        missing = ["Number of objects: no test prompt is a caption of the shapes world, only words can be counted."]
    else:
        found.insert(0, single_bins("objects", objects))
        missing = []
    missing += [
        f"Number of {s.name}: the {len(s.bins)} test prompts ({s.labels[0]}) do not make two groups of {SMALLEST}."
        for s in found
        if len(s.labels) < 2
    ]
    left = len(prompts) - len(objects)
    unparsed = f" {left} test prompts are no captions of the shapes world: their objects are not counted."
    return [s for s in found if len(s.labels) > 1], unparsed if left and len(objects) else "", missing


def count_objects(prompt: str) -> int | None:
    """How many objects a caption of the shapes world asks for; None for any other prompt."""
    try:
        return len(parse_caption(prompt).objects)
    except ConfigError:
        return None


def single_bins(name: str, counts: pd.Series[int]) -> ComplexityMeasure:
    """One bin for every number that occurs; numbers of too few prompts join their neighbour."""
    return _binned(name, counts, np.unique(counts))


def equal_bins(name: str, counts: pd.Series[int]) -> ComplexityMeasure:
    """At most ``BINS`` bins of about equally many prompts, cut between whole numbers."""
    quantiles = np.quantile(counts, np.arange(1, BINS) / BINS, method="inverted_cdf")
    return _binned(name, counts, np.unique(np.append(quantiles, counts.max())))


def _binned(name: str, counts: pd.Series[int], tops: npt.NDArray[np.int64]) -> ComplexityMeasure:
    """``tops`` are the bins' highest numbers; a bin below ``SMALLEST`` joins the next, the last the one before."""
    kept: list[int] = []
    for top in tops:
        low = kept[-1] if kept else -1
        if ((counts > low) & (counts <= top)).sum() >= SMALLEST:
            kept.append(int(top))
    kept = [*kept[:-1], int(tops[-1])]
    bins = pd.Series(np.searchsorted(kept, counts), index=counts.index)
    spans = [counts[bins == i] for i in range(len(kept))]
    labels = [str(s.min()) if s.min() == s.max() else f"{s.min()}–{s.max()}" for s in spans]
    return ComplexityMeasure(name, tuple(labels), bins)


def compared(material: Material) -> list[Variant]:
    """The best probe and up to three baselines that could rank seeds, if they were trained."""
    baselines = material.choice.baselines
    ranked = sorted(baselines, key=lambda name: recorded(name).prominence, reverse=True)
    return [material.choice.best, *(baselines[name] for name in ranked[:MOST_BASELINES])]


def by_scale(
    results: Results, variant: Variant, evaluator: str, scales: Sequence[ComplexityMeasure]
) -> dict[WithinMetric, list[list[Score]]]:
    """The metrics of one variant on the test split, in every bin of every scale."""
    tables = [results.predictions(cell, evaluator) for cell in results.seeds(variant).values()]
    found: dict[WithinMetric, list[list[Score]]] = {}
    for metric in SHOWN:
        seeds = [by_prompt(table, metric) for table in tables if not table.empty]
        found[metric] = [[_score(seeds, scale.bins, i) for i in range(len(scale.labels))] for scale in scales]
    return found


def _score(seeds: Sequence[tuple[pd.Index, PromptRatio]], bins: pd.Series[int], number: int) -> Score:
    parts = [part_of(ratio, (bins.reindex(prompts) == number).to_numpy()) for prompts, ratio in seeds]
    if not parts:
        return Score(Value(np.nan, np.nan, np.nan), 0, 0)
    tied = int(parts[0].left_out.sum())
    return Score(value_over(parts), len(parts[0].left_out) - tied, tied)


Scores = dict[tuple[str, Variant, WithinMetric], list[list[Score]]]


def _draw(material: Material, evaluators: list[str], scales: list[ComplexityMeasure], scores: Scores) -> Figure:
    columns = [(scale, metric) for scale in range(len(scales)) for metric in SHOWN]
    figure = Figure(figsize=(PAGE, 0.85 + 1.35 * len(evaluators)))
    axes = figure.subplots(len(evaluators), len(columns), squeeze=False, sharex="col", sharey="col")
    for row, evaluator in zip(axes, evaluators, strict=True):
        for ax, (scale, metric) in zip(row, columns, strict=True):
            _panel(ax, material, {v: scores[evaluator, v, metric][scale] for v in compared(material)})
        row[0].set_ylabel(evaluator_label(evaluator))
    for top, bottom, (scale, metric) in zip(axes[0], axes[-1], columns, strict=True):
        top.set_title(METRICS[metric])
        labels = zip(scales[scale].labels, scales[scale].sizes, strict=True)
        bottom.set_xticks(range(len(scales[scale].labels)), [f"{label}\nn={size}" for label, size in labels])
        bottom.set_xlabel(f"number of {scales[scale].name}")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _panel(ax: Axes, material: Material, scores: dict[Variant, list[Score]]) -> None:
    variants = compared(material)
    ax.axhline(0, color="black", lw=0.6, zorder=1)
    for i, variant in enumerate(variants):
        values = np.array([(s.value.estimate, s.value.lower, s.value.upper) for s in scores[variant]])
        at = np.arange(len(values)) + (i - (len(variants) - 1) / 2) * 0.12
        color = OKABE_ITO[i]
        first = i == 0
        label = "best probe" if first else model_label(variant.model)
        ax.vlines(at, values[:, 1], values[:, 2], color=color, lw=1.1 if first else 0.8, zorder=3)
        ax.plot(
            at,
            values[:, 0],
            MARKERS[i],
            ls="-" if first else ":",
            color=color,
            ms=3.2,
            lw=0.9,
            label=legend_label(label),
            zorder=4,
        )
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.tick_params(axis="x", colors=GREY, labelcolor="black")


def _table(material: Material, scales: list[ComplexityMeasure], scores: Scores) -> Table:
    rows: list[tuple[Field, ...]] = []
    for (evaluator, variant, metric), found in scores.items():
        if metric != SHOWN[0]:
            continue
        others = [scores[evaluator, variant, name] for name in SHOWN]
        name = "best probe" if variant == material.choice.best else model_label(variant.model)
        for i, scale in enumerate(scales):
            for j, label in enumerate(scale.labels):
                values = [scored[i][j].value for scored in others]
                known = (found[i][j].prompts, found[i][j].tied)
                rows.append((evaluator_label(evaluator), name, scale.name, label, *values, *known))
    return Table(
        "complexity",
        TITLE,
        f"Test split, step {material.choice.step}. Brackets: 95 % interval over the prompts of the "
        "group, and over training seeds where there are several. Left out: prompts whose seeds have the same score.",
        ("evaluator", "model", "scale", "how many", *(METRICS[name] for name in SHOWN), "prompts", "left out"),
        tuple(rows),
        long=True,
    )


def _alt(evaluators: list[str], scales: list[ComplexityMeasure], variants: list[Variant]) -> str:
    names = ", ".join(evaluator_label(name) for name in evaluators)
    others = ", ".join(model_label(variant.model) for variant in variants[1:]) or "no baseline"
    by = " and ".join(scale.name for scale in scales)
    return (
        f"Points with intervals of the within-prompt SRCC and the selection gain by number of {by}, for the best probe "
        f"and {others}; one row for each of: {names}."
    )
