"""The first table of a report: the best probe beside every baseline."""

from __future__ import annotations

from probe_lab.cache.faults import faults_text
from probe_lab.errors import DataError
from probe_lab.metrics import compare_predictions
from probe_lab.report.choice import BASELINES, variant_text
from probe_lab.report.intervals import RESAMPLES
from probe_lab.report.load import Results, Value, Variant
from probe_lab.report.material import Material
from probe_lab.report.style import METRICS, evaluator_label, model_label
from probe_lab.report.tables import Field, Table

HEADLINE_METRICS = ("srcc_within", "srcc", "selection_gain", "top1")
DIFFERENCE = "best minus this (SRCC within)"


def headline_tables(material: Material) -> list[Table]:
    """One table per evaluator."""
    return [_table(material, evaluator) for evaluator in material.choice.evaluators]


def _table(material: Material, evaluator: str) -> Table:
    results, choice = material.results, material.choice
    rows = [_row(results, choice.best, evaluator, f"best: {variant_text(choice.best, step=False)}", None)]
    for variant in choice.baselines.values():
        difference = _difference(results, choice.best, variant, evaluator)
        rows.append(_row(results, variant, evaluator, variant_text(variant, step=False), difference))
    columns = ("model", *(METRICS[name] for name in HEADLINE_METRICS), DIFFERENCE, "training seeds")
    return Table(
        name=f"headline_{evaluator}",
        title=f"{evaluator_label(evaluator)} at step {choice.step}",
        caption=_caption(material, evaluator),
        columns=columns,
        rows=tuple(rows),
        highlight=0,
    )


def _row(results: Results, variant: Variant, evaluator: str, name: str, difference: Value | None) -> tuple[Field, ...]:
    values = [results.value(variant, evaluator, metric) for metric in HEADLINE_METRICS]
    return (name, *values, difference, len(results.seeds(variant)))


def _difference(results: Results, best: Variant, other: Variant, evaluator: str) -> Value | None:
    """Paired over prompts, training seeds averaged in every resample; None where the two were not tested alike."""
    try:
        found = compare_predictions(
            results.tables(best), results.tables(other), ["srcc_within"], evaluator=evaluator, resamples=RESAMPLES
        )
    except DataError:  # one does not predict this evaluator, or another split or scoring was swept
        return None
    difference = found["srcc_within"][2]
    return Value(difference.estimate, difference.lower, difference.upper)


def _caption(material: Material, evaluator: str) -> str:
    results, choice = material.results, material.choice
    seeds = len(results.seeds(choice.best))
    text = (
        "Test split, unseen prompts. The best probe was chosen on the validation split (highest "
        "within-prompt SRCC of "
        f"{evaluator_label(choice.evaluators[0])}, mean over training seeds), never on these numbers; a "
        "baseline with "
        "several variants by the same rule. Brackets: 95 % interval from a bootstrap over prompts (mean "
        "of the bounds "
        "over training seeds; of the differences: the same prompts drawn for both, training seeds averaged in every "
        f"resample). {_tested(material, evaluator, seeds)}"
    )
    absent = [model_label(name) for name in BASELINES if name not in choice.baselines]
    if absent:
        text += f" Not trained at step {choice.step}: {', '.join(absent)}."
    faults = material.cache.faults if material.cache else {}
    if faults:
        text += f" {len(faults)} images of the cache are no pictures of their prompts and left out: "
        text += f"{faults_text(faults.values())}."
    return text


def _tested(material: Material, evaluator: str, seeds: int) -> str:
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
