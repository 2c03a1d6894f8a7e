"""Old names of modules that have moved: importing one gives the module of the new name, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

_OTHER_ROOM = {
    "backbones": ("capture", "architectures family outline pipelines truncation"),
    "compare": ("sweep.compare", "command difference query sheet terminal"),
    "generation": (
        "capture",
        "fill generate prompt_choice prompt_hub prompt_json prompt_notes prompt_sources prompt_tables prompt_text "
        "prompts sampling",
    ),
    "report.analysis": ("report", "applied intervals objectives origin reads results transferred"),
    "report.layout": ("report", "labels left_out material pictures replacing style"),
    "report.sections": (
        "report",
        "activations attention beside complexity curves elsewhere guide headline heatmap losses paper reliability "
        "scatter selection tradeoff tradeoff_tables transfer which_loss",
    ),
    "selection": ("select", "budget candidates drawing ranking record schedule setup"),
    "tradeoff": ("select.tradeoff", "measure policies records thinning timing"),
    "training": ("probes", "augment baselines distributed divergence fitted objective shuffles"),
}
"""Rooms, and the modules that came there under the name that they had: (where they were, their names)."""

MOVED = {f"{old}.{name}": f"{new}.{name}" for new, (old, names) in _OTHER_ROOM.items() for name in names.split()} | {
    "cache.scatter": "cache.scattered_rows",
    "cache.text": "cache.text_table",
    "capture.attention": "capture.attention_maps",
    "capture.backbones": "backbones.families",
    "capture.dry": "generation.dry_plan",
    "capture.faults": "capture.no_pictures",
    "capture.layout": "backbones.token_grid",
    "capture.listing": "generation.tap_listing",
    "capture.paper_runs": "tools.paper_runs",
    "capture.plan": "generation.measured_plan",
    "capture.preview": "previews.decoding",
    "capture.previews": "previews.preview_scores",
    "capture.ray": "generation.generation_worker",
    "capture.rows": "capture.batch_rows",
    "capture.taps": "taps",
    "capture.text": "capture.text_embeddings",
    "capture.workers": "generation.generation_worker",
    "capture.x0": "backbones.schedulers",
    "cells": "runs.files",
    "compare.compared_cells": "compare.columns",
    "config.hints": "config.key_types",
    "config.judge": "config.judge_section",
    "config.labels": "config.labels_section",
    "config.repeats": "config.duplicates",
    "config.scalars": "config.plain_values",
    "config.training": "config.training_sections",
    "config.uses": "config.use_sections",
    "config.world": "config.world_sections",
    "data.inputs": "data.provenance",
    "data.module": "data.data_module",
    "data.order": "data.sample_order",
    "data.text": "data.text_lookup",
    "evaluators.ledger": "evaluators.score_ledger",
    "evaluators.listing": "evaluators.evaluator_listing",
    "evaluators.local_pool": "evaluators.score_worker",
    "evaluators.pictures": "evaluators.preprocessing",
    "evaluators.pool": "evaluators.score_worker",
    "evaluators.ray": "evaluators.score_worker",
    "evaluators.ray_scoring": "evaluators.score_worker",
    "evaluators.run": "evaluators.scoring_run",
    "evaluators.text": "evaluators.prompt_encoder",
    "fitting": "terminal_tables",
    "generation.paper_runs": "tools.paper_runs",
    "generation.ray_filler": "generation.generation_worker",
    "generation.sources": "generation.caption_sources",
    "generation.workers": "generation.generation_worker",
    "metrics.prompts": "metrics.per_prompt",
    "metrics.selection": "metrics.gain",
    "moved": "old_module_names",
    "names": "safe_names",
    "operations": "flop_counter",
    "probes.fit": "training.fit_cell",
    "probes.flat": "training.flat_weights",
    "probes.loop": "training.sweep_loop",
    "probes.memory": "training.out_of_memory",
    "probes.module": "training.lightning_module",
    "probes.outputs": "training.cell_files",
    "probes.preview": "probes.decoded_preview",
    "probes.reading": "training.probe_data",
    "probes.trainer": "training.lightning_trainer",
    "probes.training": "training.fit_probe",
    "probes.transfer": "probes.applied_elsewhere",
    "regular": "regular_files",
    "report.agreement": "report.sections.evaluator_agreement",
    "report.analysis.load": "report.analysis.loaded_results",
    "report.choice": "report.analysis.chosen",
    "report.layout.page": "report.layout.html_page",
    "report.listing": "report.sections.cell_listing",
    "report.load": "report.analysis.loaded_results",
    "report.page": "report.layout.html_page",
    "report.papers.build": "report.papers.exhibit",
    "report.tables": "report.layout.table_forms",
    "scarcity": "resource_errors",
    "select": "selection",
    "select.cells": "selection.trained_cells",
    "select.command": "selection.select_command",
    "select.inputs": "selection.call_inputs",
    "select.judges": "selection.true_scores",
    "select.planned": "selection.budget_schedule",
    "select.rows": "selection.pipeline_rows",
    "select.running": "selection.selecting_call",
    "select.select": "selection.probe_select",
    "select.sheet": "selection.contact_sheet",
    "select.summary": "selection.outcome",
    "select.tradeoff": "tradeoff",
    "select.tradeoff.known": "tradeoff.candidate_scores",
    "select.tradeoff.pairs": "tradeoff.comparisons",
    "select.tradeoff.plans": "tradeoff.compared_ways",
    "select.tradeoff.summary": "tradeoff.terminal_summary",
    "select.tradeoff.ways": "tradeoff.way_names",
    "select.tradeoff.world": "tradeoff.test_prompts",
    "select.watch": "selection.live_view",
    "select.words": "selection.short_forms",
    "selection.judges": "selection.true_scores",
    "selection.planned": "selection.budget_schedule",
    "selection.running": "selection.selecting_call",
    "selection.watch": "selection.live_view",
    "selection.words": "selection.short_forms",
    "shapes.mistakes": "tools.tiny_models.mistakes",
    "shapes.tokenizer": "tools.tiny_models.tokenizer",
    "sweep.adopt": "sweep.sibling_cells",
    "sweep.alike": "sweep.equivalent_cells",
    "sweep.compare": "compare",
    "sweep.compare.cells": "compare.columns",
    "sweep.compare.configs": "runs.configs",
    "sweep.compare.rows": "compare.sheet_rows",
    "sweep.compare.table": "compare.cell_sheet",
    "sweep.identity": "runs.identity",
    "sweep.listing": "sweep.plan_table",
    "sweep.local": "sweep.cell_pool",
    "sweep.previews": "sweep.preview_needs",
    "sweep.progress": "sweep.sweep_bar",
    "sweep.rate": "sweep.time_estimate",
    "sweep.ray": "sweep.cell_pool",
    "sweep.ray_engine": "sweep.cell_pool",
    "sweep.results": "runs.table",
    "sweep.standing": "sweep.cell_states",
    "sweep.taps": "sweep.tap_patterns",
    "tracking.backlog": "tracking.tracking_folder",
    "tracking.entries": "tracking.tracking_folder",
    "tracking.folder": "tracking.tracking_folder",
    "tracking.ledger": "tracking.sent_record",
    "tracking.receipt": "tracking.sent_record",
    "tracking.sending": "tracking.sync",
    "tracking.sweeps": "tracking.commands",
    "tradeoff.known": "tradeoff.candidate_scores",
    "tradeoff.plans": "tradeoff.compared_ways",
    "tradeoff.ways": "tradeoff.way_names",
    "training.judged": "training.judge_scores",
    "training.loop": "training.sweep_loop",
    "training.reading": "training.probe_data",
    "training.validated": "training.validated_batches",
}
"""Where a module of ``probe_lab`` was, and where it is; what only a checkout has, below ``tools``."""


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
        place = MOVED[spec.name.partition(".")[2]]
        new = place if place.startswith("tools.") else f"{__package__}.{place}"
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
