"""The first table of a report: the best probe beside every baseline."""

from __future__ import annotations

import math

from probe_lab.cache.faults import faults_text
from probe_lab.errors import DataError
from probe_lab.metrics import compare_predictions, holm, seed_share
from probe_lab.probes.kinds import recorded
from probe_lab.report.analysis.chosen import baselines_of, variant_text
from probe_lab.report.analysis.intervals import as_value
from probe_lab.report.analysis.results import RESAMPLES, Results, Value, Variant
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import METRICS, evaluator_label, model_label, number_text
from probe_lab.report.layout.table_forms import Field, Table

HEADLINE_METRICS = ("srcc_within", "srcc", "selection_gain", "top1")
DIFFERENCE = "best minus this (SRCC within)"
P_VALUE = "p (Holm)"


def headline_tables(material: Material) -> list[Table]:
    """One table per evaluator."""
    return [_table(material, evaluator) for evaluator in material.choice.evaluators]


def to_win(material: Material) -> str:
    """The first sentence of a report: how much of a score's variance the choice of a seed can be about, and what the
    best seed wins. "" where the best probe predicts no image of the first evaluator."""
    results, evaluator = material.results, material.choice.evaluators[0]
    table = results.predictions(next(iter(results.seeds(material.choice.best).values())), evaluator)
    if table.empty:
        return ""
    found = seed_share(table["target"], table["prompt_id"], resamples=RESAMPLES)
    share, best = found.share, found.best
    if math.isnan(share.estimate):
        return ""
    percent, lowest, highest = (number_text(100 * value, 0) for value in (share.estimate, share.lower, share.upper))
    seeds = int(table.groupby("prompt_id").size().median())
    return (
        f"{percent} % [{lowest}, {highest}] of the variance of {evaluator_label(evaluator)} over the test images lies "
        f"between the seeds of a prompt, which is all that a choice of seeds can be about: the best of {seeds} is "
        f"{number_text(best.estimate, 3)} [{number_text(best.lower, 3)}, {number_text(best.upper, 3)}] above their "
        "mean, and nothing that chooses among them can win more. "
    )


def _table(material: Material, evaluator: str) -> Table:
    results, choice = material.results, material.choice
    differences = [_difference(results, choice.best, variant, evaluator) for variant in choice.baselines.values()]
    adjusted = holm([math.nan if one is None else one.p for one in differences]).tolist()
    rows = [_row(results, choice.best, evaluator, f"best: {variant_text(choice.best, step=False)}", None, None)]
    for variant, difference, p in zip(choice.baselines.values(), differences, adjusted, strict=True):
        rows.append(_row(results, variant, evaluator, variant_text(variant, step=False), difference, p))
    columns = ("model", *(METRICS[name] for name in HEADLINE_METRICS), DIFFERENCE, P_VALUE, "training seeds")
    return Table(
        name=f"headline_{evaluator}",
        title=f"{evaluator_label(evaluator)} at step {choice.step}",
        caption=_caption(material, evaluator),
        columns=columns,
        rows=tuple(rows),
        highlight=0,
    )


def _row(
    results: Results, variant: Variant, evaluator: str, name: str, difference: Value | None, p: float | None
) -> tuple[Field, ...]:
    values = [results.value(variant, evaluator, metric) for metric in HEADLINE_METRICS]
    return (name, *values, difference, p, len(results.seeds(variant)))


def _difference(results: Results, best: Variant, other: Variant, evaluator: str) -> Value | None:
    """Paired over prompts, mean over training seeds; None where the two were not tested alike."""
    if results.shuffles(other) > 1:  # the predictions are those of one of them
        return None
    try:
        found = compare_predictions(
            results.tables(best), results.tables(other), ["srcc_within"], evaluator=evaluator, resamples=RESAMPLES
        )
    except DataError:  # one does not predict this evaluator, or another split or scoring was swept
        return None
    return as_value(found["srcc_within"][2])


def _caption(material: Material, evaluator: str) -> str:
    results, choice = material.results, material.choice
    seeds = len(results.seeds(choice.best))
    text = (
        "Test split, unseen prompts. The best probe was chosen on the validation split (highest "
        "within-prompt SRCC of "
        f"{evaluator_label(choice.evaluators[0])}, mean over training seeds), never on these numbers; a "
        "baseline with "
        "several variants by the same rule. Brackets: 95 % interval over prompts, and over training seeds where "
        f"there are several; paired for differences.{_one_seed(seeds)} p: of both being equal, by Holm over the rows. "
        f"{_tested(material, evaluator)}"
    )
    text += _control(material)
    absent = [model_label(name) for name in baselines_of(results) if name not in choice.baselines]
    if absent:
        text += f" Not trained at step {choice.step}: {', '.join(absent)}."
    faults = material.cache.faults if material.cache else {}
    if faults:
        text += f" {len(faults)} images of the cache are no pictures of their prompts and left out: "
        text += f"{faults_text(faults.values())}."
    return text


def _control(material: Material) -> str:
    """What the row of shuffled labels is."""
    trained = material.choice.baselines.items()
    control = next((variant for name, variant in trained if recorded(name).shuffled), None)
    if control is None:
        return ""
    count = material.results.shuffles(control)
    if count == 1:
        return (
            " Shuffled labels were trained once: by luck alone such a row leaves out 0 in about one case of five. "
            "Delete its cell and sweep again, which trains it probe.shuffles times and shows the range of chance."
        )
    return (
        f" Shuffled labels: mean of {count} trainings, each on another permutation, and in brackets the lowest and the "
        "highest of them. Suspicious is a range within prompts that leaves out 0: a leak, or test prompts that were "
        "trained on."
    )


def _one_seed(seeds: int) -> str:
    if seeds > 1:
        return ""
    return (
        " The best probe has one training seed: how much another training would differ is not in the width of these "
        "intervals."
    )


def _tested(material: Material, evaluator: str) -> str:
    results, best = material.results, material.choice.best
    table = results.predictions(next(iter(results.seeds(best).values())), evaluator)
    if table.empty:
        return f"The best probe does not predict {evaluator_label(evaluator)}."
    sizes = table.groupby("prompt_id").size()
    tied = int((table.groupby("prompt_id")["target"].nunique() < 2).sum())
    candidates = int(sizes.median())
    return (
        f"{len(sizes)} prompts with {candidates} seeds each, {tied} of them left out within prompts "
        "because all their "
        f"seeds tie. A random seed has selection gain 0 and a top-1 hit rate of {1 / candidates:.3f}; an "
        "oracle has 1."
    )
