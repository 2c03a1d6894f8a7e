"""Old names of modules that have moved: importing one gives the module of the new name, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "cache.text": "cache.text_table",
    "capture.architectures": "backbones.architectures",
    "capture.attention": "capture.attention_maps",
    "capture.backbones": "backbones.families",
    "capture.dry": "generation.dry_plan",
    "capture.family": "backbones.family",
    "capture.faults": "capture.no_pictures",
    "capture.fill": "generation.fill",
    "capture.generate": "generation.generate",
    "capture.layout": "backbones.token_grid",
    "capture.listing": "generation.tap_listing",
    "capture.outline": "backbones.outline",
    "capture.paper_runs": "generation.paper_runs",
    "capture.pipelines": "backbones.pipelines",
    "capture.plan": "generation.measured_plan",
    "capture.preview": "previews.decoding",
    "capture.previews": "previews.preview_scores",
    "capture.prompt_choice": "generation.prompt_choice",
    "capture.prompt_hub": "generation.prompt_hub",
    "capture.prompt_json": "generation.prompt_json",
    "capture.prompt_notes": "generation.prompt_notes",
    "capture.prompt_sources": "generation.prompt_sources",
    "capture.prompt_tables": "generation.prompt_tables",
    "capture.prompt_text": "generation.prompt_text",
    "capture.prompts": "generation.prompts",
    "capture.ray": "generation.ray_filler",
    "capture.rows": "capture.batch_rows",
    "capture.sampling": "generation.sampling",
    "capture.taps": "taps",
    "capture.text": "capture.text_embeddings",
    "capture.truncation": "backbones.truncation",
    "capture.workers": "generation.workers",
    "capture.x0": "backbones.schedulers",
    "cells": "runs.files",
    "data.inputs": "data.provenance",
    "data.module": "data.data_module",
    "data.text": "data.text_lookup",
    "evaluators.ledger": "evaluators.score_ledger",
    "evaluators.listing": "evaluators.evaluator_listing",
    "evaluators.pictures": "evaluators.preprocessing",
    "evaluators.pool": "evaluators.local_pool",
    "evaluators.ray": "evaluators.ray_scoring",
    "evaluators.run": "evaluators.scoring_run",
    "evaluators.text": "evaluators.prompt_encoder",
    "metrics.prompts": "metrics.per_prompt",
    "metrics.selection": "metrics.gain",
    "probes.augment": "training.augment",
    "probes.baselines": "training.baselines",
    "probes.distributed": "training.distributed",
    "probes.divergence": "training.divergence",
    "probes.fit": "training.fit_cell",
    "probes.fitted": "training.fitted",
    "probes.flat": "training.flat_weights",
    "probes.loop": "training.loop",
    "probes.memory": "training.out_of_memory",
    "probes.module": "training.lightning_module",
    "probes.objective": "training.objective",
    "probes.outputs": "training.cell_files",
    "probes.preview": "probes.decoded_preview",
    "probes.reading": "training.reading",
    "probes.shuffles": "training.shuffles",
    "probes.trainer": "training.lightning_trainer",
    "probes.training": "training.fit_probe",
    "probes.transfer": "probes.applied_elsewhere",
    "report.activations": "report.sections.activations",
    "report.agreement": "report.sections.evaluator_agreement",
    "report.applied": "report.analysis.applied",
    "report.attention": "report.sections.attention",
    "report.beside": "report.sections.beside",
    "report.choice": "report.analysis.chosen",
    "report.complexity": "report.sections.complexity",
    "report.curves": "report.sections.curves",
    "report.elsewhere": "report.sections.elsewhere",
    "report.guide": "report.sections.guide",
    "report.headline": "report.sections.headline",
    "report.heatmap": "report.sections.heatmap",
    "report.intervals": "report.analysis.intervals",
    "report.labels": "report.layout.labels",
    "report.left_out": "report.layout.left_out",
    "report.listing": "report.sections.cell_listing",
    "report.load": "report.analysis.load",
    "report.losses": "report.sections.losses",
    "report.material": "report.layout.material",
    "report.objectives": "report.analysis.objectives",
    "report.origin": "report.analysis.origin",
    "report.page": "report.layout.page",
    "report.paper": "report.sections.paper",
    "report.papers.build": "report.papers.exhibit",
    "report.pictures": "report.layout.pictures",
    "report.reads": "report.analysis.reads",
    "report.reliability": "report.sections.reliability",
    "report.replacing": "report.layout.replacing",
    "report.results": "report.analysis.results",
    "report.scatter": "report.sections.scatter",
    "report.selection": "report.sections.selection",
    "report.style": "report.layout.style",
    "report.tables": "report.layout.table_forms",
    "report.tradeoff": "report.sections.tradeoff",
    "report.tradeoff_tables": "report.sections.tradeoff_tables",
    "report.transfer": "report.sections.transfer",
    "report.transferred": "report.analysis.transferred",
    "report.which_loss": "report.sections.which_loss",
    "select": "selection",
    "select.budget": "selection.budget",
    "select.candidates": "selection.candidates",
    "select.cells": "selection.trained_cells",
    "select.command": "selection.select_command",
    "select.drawing": "selection.drawing",
    "select.inputs": "selection.call_inputs",
    "select.judges": "selection.judges",
    "select.planned": "selection.planned",
    "select.ranking": "selection.ranking",
    "select.record": "selection.record",
    "select.rows": "selection.pipeline_rows",
    "select.running": "selection.running",
    "select.schedule": "selection.schedule",
    "select.select": "selection.probe_select",
    "select.setup": "selection.setup",
    "select.sheet": "selection.contact_sheet",
    "select.summary": "selection.outcome",
    "select.tradeoff": "tradeoff",
    "select.tradeoff.known": "tradeoff.known",
    "select.tradeoff.measure": "tradeoff.measure",
    "select.tradeoff.pairs": "tradeoff.comparisons",
    "select.tradeoff.plans": "tradeoff.plans",
    "select.tradeoff.policies": "tradeoff.policies",
    "select.tradeoff.records": "tradeoff.records",
    "select.tradeoff.summary": "tradeoff.terminal_summary",
    "select.tradeoff.thinning": "tradeoff.thinning",
    "select.tradeoff.timing": "tradeoff.timing",
    "select.tradeoff.ways": "tradeoff.ways",
    "select.tradeoff.world": "tradeoff.test_prompts",
    "select.watch": "selection.watch",
    "select.words": "selection.words",
    "sweep.compare": "compare",
    "sweep.compare.cells": "compare.compared_cells",
    "sweep.compare.command": "compare.command",
    "sweep.compare.configs": "runs.configs",
    "sweep.compare.difference": "compare.difference",
    "sweep.compare.query": "compare.query",
    "sweep.compare.rows": "compare.sheet_rows",
    "sweep.compare.sheet": "compare.sheet",
    "sweep.compare.table": "compare.cell_sheet",
    "sweep.compare.terminal": "compare.terminal",
    "sweep.identity": "runs.identity",
    "sweep.listing": "sweep.plan_table",
    "sweep.previews": "sweep.preview_needs",
    "sweep.progress": "sweep.sweep_bar",
    "sweep.ray": "sweep.ray_engine",
    "sweep.results": "runs.table",
    "sweep.taps": "sweep.tap_patterns",
}
"""Where a module of ``probe_lab`` was, and where it is."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds old names before Python looks for files, since a moved package's own files would be loaded twice."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != __package__ or name not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = f"{__package__}.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is {new} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None  # that of the old name, which the import system has put there
        module.__spec__ = module.__spec__.loader_state


def find_moved_modules() -> None:
    """Make the old names importable."""
    sys.meta_path.insert(0, _Finder())
