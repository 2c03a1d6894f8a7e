"""The papers' own numbers beside ours: for orientation, not comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from probe_lab.report.analysis.chosen import best_on_validation, probes, steps_of
from probe_lab.report.analysis.results import Results, Variant
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import evaluator_label
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.report.sections.selection import selection_curve

PUBLISHED = Path(__file__).with_name("paper_results.yaml")
OURS = "this report"
_PREDICTION = ("srcc", "auc_roc", "ktc", "pcc")
_METRIC = {"auc_roc": "auc"}
_PAPER_EVALUATORS = ("clip_score", "pick_score", "blip_itm", "image_reward", "hps_v2_1")
_CAUTION = (
    "Not comparable, for orientation only: the papers use other models, prompts and evaluators, and "
    "correlations over "
    "all images at once, much of which is prompt difficulty."
)


def paper_tables(material: Material) -> list[Table]:
    """Prediction over steps (Diffusion Probe), Spearman per evaluator and best-of-N (Probe-Select)."""
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    kept = published["probe_select"]["notes"]["selection"]
    return [
        _diffusion_probe(material, published["diffusion_probe"]["prediction"]),
        _spearman(material, published["probe_select"]["spearman_t02"]),
        _selection(material, published["probe_select"]["selective_generation"], kept),
    ]


def _name(material: Material) -> str:
    return material.cache.manifest.backbone if material.cache else material.results.folder.name


def _diffusion_probe(material: Material, published: list[dict[str, Any]]) -> Table:
    results, evaluator = material.results, material.choice.evaluators[0]
    rows: list[tuple[Field, ...]] = [
        (
            "Diffusion Probe",
            row["model"],
            "ImageReward",
            row["step"],
            *(float(row[name]) for name in _PREDICTION),
        )
        for row in published
    ]
    for step in steps_of(results, probes(results)):
        best = best_on_validation(results, probes(results), step, evaluator)
        values = [_estimate(results, best, evaluator, _METRIC.get(name, name)) for name in _PREDICTION]
        rows.append((OURS, _name(material), evaluator_label(evaluator), step, *values))
    return Table(
        "paper_diffusion_probe",
        "Diffusion Probe (arXiv 2602.23783) and this report",
        f"{_CAUTION} Ours: at every step the probe that validates best.",
        ("source", "model", "evaluator", "step", "SRCC", "AUC-ROC", "KTC", "PCC"),
        tuple(rows),
        digits=2,
    )


def _spearman(material: Material, published: list[dict[str, Any]]) -> Table:
    choice = material.choice
    rows: list[tuple[Field, ...]] = [
        ("Probe-Select", row["model"], evaluator_label(name), "0.2 of the steps", float(row[name]))
        for row in published
        for name in _PAPER_EVALUATORS
    ]
    for evaluator in choice.evaluators:
        value = _estimate(material.results, choice.best, evaluator, "srcc")
        rows.append((OURS, _name(material), evaluator_label(evaluator), f"step {choice.step}", value))
    return Table(
        "paper_probe_select",
        "Probe-Select (arXiv 2603.02829), Spearman per evaluator, and this report",
        f"{_CAUTION} Ours: the best probe of the headline.",
        ("source", "model", "evaluator", "probed at", "SRCC"),
        tuple(rows),
        digits=2,
    )


def disputed(kept: list[str]) -> str:
    """What our sources do not agree on: how many images the published choice keeps, the one that we take first."""
    return (
        f"Sources disagree on how many images Probe-Select kept, {' or '.join(kept)}: we take {kept[0]}, which the "
        "published cost is of."
    )


def _selection(material: Material, published: list[dict[str, Any]], kept: list[str]) -> Table:
    """Top-1 of 5 against the average seed; ours of 5 too, or of as many as there are."""
    rows: list[tuple[Field, ...]] = []
    baseline = {row["model"]: row for row in published if row["config"] == "baseline"}
    for row in published:
        if row["config"] == "baseline":
            continue
        for name in ("image_reward", "hps_v2_1", "clip_score"):
            before = float(baseline[row["model"]][name])
            rows.append(("Probe-Select", row["model"], evaluator_label(name), 5, before, float(row[name]), None))
    for evaluator in material.choice.evaluators:
        curve = selection_curve(material.results, material.choice.best, evaluator)
        if curve is not None:
            i = min(5, curve.counts[-1]) - 1
            numbers = (float(curve.random[i]), float(curve.score[i, 0]), float(curve.oracle[i]))
            rows.append((OURS, _name(material), evaluator_label(evaluator), curve.counts[i], *numbers))
    return Table(
        "paper_selection",
        "Choosing one of N seeds: Probe-Select (arXiv 2603.02829) and this report",
        f"{_CAUTION} Mean score of a random seed and of the chosen one; the papers give no oracle. {disputed(kept)}",
        ("source", "model", "evaluator", "N", "random seed", "chosen", "oracle"),
        tuple(rows),
        digits=2,
    )


def _estimate(results: Results, variant: Variant | None, evaluator: str, metric: str) -> float | None:
    value = results.estimate(variant, evaluator, metric) if variant else np.nan
    return value if np.isfinite(value) else None
