"""What is known of every candidate before ways are compared: generated, scored and predicted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probe_lab.cache import Cache
from probe_lab.cache.faults import faults_note
from probe_lab.cache.layout import DECODED, LOOKAHEAD, AskedPreviews, PreviewOf
from probe_lab.config import Experiment
from probe_lab.errors import SelectError
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation.generate import generate
from probe_lab.generation.measured_plan import Plan as Generation
from probe_lab.metrics.per_prompt import Floats
from probe_lab.previews.preview_scores import score_previews
from probe_lab.probes import ProbeSpec, load_probe
from probe_lab.progress import Watching
from probe_lab.runs.files import is_finished
from probe_lab.selection.ranking import check_by
from probe_lab.selection.schedule import step_in
from probe_lab.selection.trained_cells import (
    at_other_steps,
    best_cell,
    check_capture,
    check_origin,
    check_split,
    named_cell,
    trained_with,
)
from probe_lab.tradeoff.budget_plans import Sampler
from probe_lab.tradeoff.test_prompts import (
    by_prompt,
    for_plans,
    for_validation,
    in_fewer_steps,
    predictions,
    prompts_of,
    step_counts,
    with_all_candidates,
)
from probe_lab.tradeoff.thinning import Thinning, choose_thinning


@dataclass(frozen=True)
class Probes:
    """The probe of the single cut, and those of several steps for progressive ways."""

    cell: Path
    cells: Mapping[int, Path]
    specs: Mapping[Path, ProbeSpec]

    @property
    def spec(self) -> ProbeSpec:
        """Of the single cut."""
        return self.specs[self.cell]

    @property
    def step(self) -> int:
        return self.spec.step

    def asked_previews(self, evaluator: str) -> AskedPreviews:
        """What previewing ways decode at the step of the single cut, and what all probes read at theirs."""
        return self._asked(evaluator, self.step, [(spec.step, spec) for spec in self.specs.values()])

    def asked_at(self, cut: int, evaluator: str) -> AskedPreviews:
        """The same where the single cut is at call ``cut``, of its probe alone."""
        return self._asked(evaluator, cut, [(cut, self.spec)])

    def _asked(self, evaluator: str, cut: int, reading: Iterable[tuple[int, ProbeSpec]]) -> AskedPreviews:
        asked = {PreviewOf(cut, latent): {evaluator} for latent in DECODED}
        for step, spec in reading:
            for each in spec.previews:
                asked.setdefault(PreviewOf(step, each.latent), set()).add(each.evaluator)
        return {of: sorted(names) for of, names in sorted(asked.items())}


@dataclass(frozen=True)
class CandidateScores:
    """What is known of every candidate, [prompts, seeds] each: in the ``whole`` number of steps, true scores of the
    images of ``fewer`` steps (by their number), and what the probe's like at several steps predict. ``samplers`` are
    those that plans may use, by their number of steps, the whole one among them."""

    whole: Sampler
    fewer: Mapping[int, Floats]
    by_step: Mapping[int, Floats]
    samplers: Mapping[int, Sampler]


def probes_of(experiment: Experiment, wanted: str, evaluator: str) -> Probes:
    """The best cell at ``probe.step`` that reads no previews, which are a way of their own; and the group of cells that
    differ in their step alone.

    Raises:
        SelectError: a cell of another backbone, resolution or number of steps, or one that does not predict the
            evaluator.
        ReportError: no cell is finished.
    """
    one_cut = replace(experiment, select=replace(experiment.select, schedule=[], budget=0))
    several = replace(one_cut, select=replace(one_cut.select, budget=1))
    cell = named_cell(experiment, wanted) if wanted else best_cell(one_cut, evaluator, previews=False)
    group = at_other_steps(cell)
    if len(group) == 1 and is_finished(cell):
        group = at_other_steps(best_cell(several, evaluator, previews=False))
    cells = {step: one for step, one in sorted(group.items()) if step < experiment.sampling.steps}
    specs = {one: _checked(one, experiment, evaluator) for one in (cell, *cells.values())}
    return Probes(cell, cells, specs)


def _checked(cell: Path, experiment: Experiment, evaluator: str) -> ProbeSpec:
    probe, steps = load_probe(cell), experiment.sampling.steps
    check_by(evaluator, probe)
    if trained := trained_with(cell):
        check_origin(cell, trained, experiment)
        check_split(cell, trained, experiment)
        check_capture(cell, trained.capture, experiment.capture, "the experiment")
    if probe.spec.total_steps != steps:
        raise SelectError(
            f"the probe {cell.name} was trained on images of {probe.spec.total_steps} steps and sampling.steps is "
            f"{steps}: set it to {probe.spec.total_steps}, or name another cell with --probe"
        )
    return probe.spec


def scores_of_candidates(
    experiment: Experiment,
    probes: Probes,
    prompts: tuple[str, ...],
    evaluator: str,
    watching: Watching,
    announce: Callable[[Generation], None],
) -> CandidateScores:
    """Of the candidates of the test ``prompts``, generated and scored in caches that an interrupted call continues."""
    taps = [tap for spec in probes.specs.values() for tap in spec.taps]
    world = with_all_candidates(experiment, prompts, [probes.step, *probes.cells], [*taps, *DECODED])
    cache = _previewed(world, probes.asked_previews(evaluator), evaluator, watching, announce)
    whole = _sampler(cache, probes.step, probes, evaluator)
    shorter = {made.steps: made for made in _shorter(experiment, world, probes, evaluator, watching, announce)}
    fewer = {steps: made.target for steps, made in shorter.items()}
    for steps in step_counts(experiment):
        if steps not in shorter:
            finished = _made(in_fewer_steps(world, steps, steps, ["x0"]), evaluator, watching, announce)
            fewer[steps] = by_prompt(finished, finished.scores(evaluator))
    return CandidateScores(
        whole=whole,
        fewer=dict(sorted(fewer.items())),
        by_step=predictions(probes.cells, cache, evaluator) if len(probes.cells) > 1 else {},
        samplers={whole.steps: whole, **shorter},
    )


def planning_samplers(
    experiment: Experiment,
    probes: Probes,
    evaluator: str,
    watching: Watching,
    announce: Callable[[Generation], None],
) -> list[Sampler]:
    """What plans are chosen by: all candidates of validation prompts, in every number of steps that a plan may have;
    none where no plan is asked for.

    Raises:
        SelectError: no prompt is in the validation split.
    """
    asked = experiment.tradeoff
    if not asked.budgets:
        return []
    prompts = prompts_of(experiment, "val", asked.planned_prompts, ", or tradeoff.budgets=[] for no plans")
    world = for_plans(experiment, prompts, probes.step, [*probes.spec.taps, *DECODED])
    cache = _previewed(world, probes.asked_at(probes.step, evaluator), evaluator, watching, announce)
    whole = _sampler(cache, probes.step, probes, evaluator)
    return [whole, *_shorter(experiment, world, probes, evaluator, watching, announce)]


def _shorter(
    experiment: Experiment,
    world: Experiment,
    probes: Probes,
    evaluator: str,
    watching: Watching,
    announce: Callable[[Generation], None],
) -> Iterator[Sampler]:
    """The candidates of the world in fewer steps, wherever a call is at the probe's share of them."""
    for steps in step_counts(experiment):
        if cut := step_in(probes.spec, steps):
            shorter = in_fewer_steps(world, steps, cut, [*probes.spec.taps, *DECODED])
            cache = _previewed(shorter, probes.asked_at(cut, evaluator), evaluator, watching, announce)
            yield _sampler(cache, cut, probes, evaluator)


def _sampler(cache: Cache, cut: int, probes: Probes, evaluator: str) -> Sampler:
    return Sampler(
        steps=cache.manifest.steps,
        cut=cut,
        target=by_prompt(cache, cache.scores(evaluator)),
        probe=predictions({cut: probes.cell}, cache, evaluator)[cut],
        preview=by_prompt(cache, cache.preview_scores(evaluator, cut)),
        lookahead=by_prompt(cache, cache.preview_scores(evaluator, cut, LOOKAHEAD)),
    )


def thinning_of(
    experiment: Experiment,
    probes: Probes,
    evaluator: str,
    watching: Watching,
    announce: Callable[[Generation], None],
) -> Thinning:
    """``tradeoff.thin``, or what ``choose_thinning`` says of the seeds of as many validation prompts as test prompts
    are measured on.

    Raises:
        SelectError: no prompt is in the validation split.
    """
    if experiment.tradeoff.thin:
        return Thinning(experiment.tradeoff.thin)
    prompts = prompts_of(experiment, "val", experiment.tradeoff.prompts, ", or say tradeoff.thin yourself")
    world = for_validation(experiment, prompts, probes.step, [*probes.spec.taps, *DECODED])
    cache = _previewed(world, probes.asked_at(probes.step, evaluator), evaluator, watching, announce)
    whole = _sampler(cache, probes.step, probes, evaluator)
    return choose_thinning(whole.target, whole.probe, whole.lookahead)


def _previewed(
    world: Experiment,
    previews: AskedPreviews,
    evaluator: str,
    watching: Watching,
    announce: Callable[[Generation], None],
) -> Cache:
    """``_made``, and its previews scored."""
    cache = _made(world, evaluator, watching, announce)
    with watching("previews", "scores") as update:
        score_previews(world, previews, on_progress=update)
    return cache


def _made(world: Experiment, evaluator: str, watching: Watching, announce: Callable[[Generation], None]) -> Cache:
    """The cache of the world, generated and scored."""
    with watching(f"generate {world.cache_folder.name}", "images") as update:
        generate(world, update, announce)
    with watching(f"score {world.cache_folder.name}", "images") as update:
        score_cache(
            world.cache_folder,
            [evaluator],
            scoring=world.scoring,
            workers=world.workers,
            engine=world.engine,
            on_progress=update,
        )
    cache = Cache(world.cache_folder)
    if note := faults_note(cache):
        raise SelectError(f"ways of selecting cannot be compared where candidates are missing: {note}")
    lacking = int(np.isnan(cache.scores(evaluator)).sum())
    if lacking:
        raise SelectError(
            f"{lacking} of {len(cache.samples)} images of {cache.folder} have no score of {evaluator}: name an "
            "evaluator that can run first in probe.evaluators, or mend the images"
        )
    return cache
