"""What is known of every candidate before ways are compared: generated, scored and predicted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probe_lab.cache import Cache
from probe_lab.cache.layout import PREVIEWED, PreviewOf
from probe_lab.capture.generate import generate
from probe_lab.capture.plan import Plan as Generation
from probe_lab.capture.previews import score_previews
from probe_lab.config import Experiment
from probe_lab.errors import SelectError
from probe_lab.evaluators.run import score_cache
from probe_lab.probes import ProbeSpec, load_probe
from probe_lab.progress import Watching
from probe_lab.select.cells import at_other_steps, best_cell, named_cell
from probe_lab.select.tradeoff.policies import Numbers
from probe_lab.select.tradeoff.world import by_prompt, in_fewer_steps, predictions, with_all_candidates


@dataclass(frozen=True)
class Probes:
    """The probe of the single cut, and those of several steps for progressive ways."""

    cell: Path
    spec: ProbeSpec
    cells: Mapping[int, Path]

    @property
    def step(self) -> int:
        return self.spec.step


@dataclass(frozen=True)
class Known:
    """What is known of every candidate, [prompts, seeds] each: the true score, that of the image of fewer steps, of the
    decoded latents of the cut, and what the probe and its like at several steps predict."""

    target: Numbers
    fewer: Numbers | None
    preview: Numbers
    lookahead: Numbers
    probe: Numbers
    by_step: Mapping[int, Numbers]


def probes_of(experiment: Experiment, wanted: str, evaluator: str) -> Probes:
    """The best cell at ``probe.step`` that reads no previews, which are a way of their own; and the group of cells that
    differ in their step alone."""
    one_cut = replace(experiment, select=replace(experiment.select, schedule=[], budget=0))
    several = replace(one_cut, select=replace(one_cut.select, budget=1))
    cell = named_cell(experiment.runs_folder, wanted) if wanted else best_cell(one_cut, evaluator, previews=False)
    group = at_other_steps(cell)
    if len(group) == 1:
        group = at_other_steps(best_cell(several, evaluator, previews=False))
    several_steps = {step: one for step, one in sorted(group.items()) if step < experiment.sampling.steps}
    return Probes(cell, load_probe(cell).spec, several_steps)


def known_of(
    experiment: Experiment,
    probes: Probes,
    prompts: tuple[str, ...],
    evaluator: str,
    watching: Watching,
    announce: Callable[[Generation], None],
) -> Known:
    step = probes.step
    taps = [*probes.spec.taps, *(tap for cell in probes.cells.values() for tap in load_probe(cell).spec.taps)]
    world = with_all_candidates(experiment, prompts, [step, *probes.cells], [*taps, "x0", "lookahead"])
    cache = _made(world, evaluator, watching, announce)
    with watching("previews", "scores") as update:
        asked = {PreviewOf(step, latent): [evaluator] for latent in PREVIEWED}
        score_previews(world, asked, on_progress=update)
    fewer = None
    if experiment.tradeoff.fewer_steps:
        other = _made(in_fewer_steps(world), evaluator, watching, announce)
        fewer = by_prompt(other, other.scores(evaluator))
    return Known(
        target=by_prompt(cache, cache.scores(evaluator)),
        fewer=fewer,
        preview=by_prompt(cache, cache.preview_scores(evaluator, step)),
        lookahead=by_prompt(cache, cache.preview_scores(evaluator, step, "lookahead")),
        probe=predictions({step: probes.cell}, cache, evaluator)[step],
        by_step=predictions(probes.cells, cache, evaluator) if len(probes.cells) > 1 else {},
    )


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
    lacking = int(np.isnan(cache.scores(evaluator)).sum())
    if lacking:
        raise SelectError(
            f"{lacking} of {len(cache.samples)} images of {cache.folder} have no score of {evaluator}: name an "
            "evaluator that can run first in probe.evaluators, or mend the images"
        )
    return cache
