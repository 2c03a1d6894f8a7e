"""``probe-lab tradeoff``: what each way of selecting gives, in true score, for what it costs in calls and seconds."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from probe_lab.cache import Cache
from probe_lab.capture.generate import generate
from probe_lab.capture.pipelines import load_pipeline
from probe_lab.capture.plan import Plan as Generation
from probe_lab.capture.previews import score_previews
from probe_lab.config import Experiment
from probe_lab.errors import SelectError
from probe_lab.evaluators import create
from probe_lab.evaluators.run import score_cache
from probe_lab.metrics.bootstrap import interval, resample
from probe_lab.probes import load_probe
from probe_lab.select.cells import at_other_steps, best_cell, named_cell
from probe_lab.select.tradeoff.plans import Compared, progressive_way, single_ways
from probe_lab.select.tradeoff.policies import Numbers, Stage, draw_candidates, kept_scores
from probe_lab.select.tradeoff.records import About, Pair, Tradeoff, TradeoffRow
from probe_lab.select.tradeoff.timing import Bench
from probe_lab.select.tradeoff.ways import Question, Way
from probe_lab.select.tradeoff.world import (
    by_prompt,
    held_out_prompts,
    in_fewer_steps,
    predictions,
    with_all_candidates,
)

RESAMPLES, CONFIDENCE = 2000, 0.95
Watching = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""(what is done, what is counted) -> a context with the function that is told (done, total)."""

_QUESTIONS: Sequence[tuple[Question, Way, Way]] = (
    ("beats_preview", "cascade", "preview"),
    ("beats_preview", "probe", "preview"),
    ("progressive", "progressive", "probe"),
    ("beats_random", "probe", "random"),
)


@dataclass(frozen=True)
class Probes:
    """The probe of the single cut, and those of several steps for progressive ways."""

    cell: Path
    cells: Mapping[int, Path]

    @property
    def step(self) -> int:
        return load_probe(self.cell).spec.step


@dataclass(frozen=True)
class Known:
    """What is known of every candidate, [prompts, seeds] each: the true score, that of the image of fewer steps, of the
    decoded latents of the cut, and what the probe and its like at several steps predict."""

    prompts: tuple[str, ...]
    target: Numbers
    fewer: Numbers | None
    preview: Numbers
    lookahead: Numbers
    probe: Numbers
    by_step: Mapping[int, Numbers]


def measure(
    experiment: Experiment, wanted: str = "", *, watching: Watching, announce: Callable[[Generation], None]
) -> Tradeoff:
    """Compare all ways on the experiment's test prompts, and write the result into its runs folder.

    ``wanted`` names the cell of the single cut, the best one on validation where empty. The evaluator is the first that
    the experiment's probes predict. Candidates are generated and scored in caches of their own, which an interrupted
    call continues.

    Raises:
        SelectError: no cell, no test prompt, or an evaluator whose scores were imported.
        CacheError, CaptureError, ScoreError, ConfigError: as in ``generate`` and ``score``.
        ReportError: no cell is finished, or the files cannot be written.
    """
    evaluator = experiment.probe_evaluators[0]
    probes = _probes(experiment, wanted, evaluator)
    prompts = held_out_prompts(experiment)
    known = _known(experiment, probes, prompts, evaluator, watching, announce)
    ways = _ways(experiment, probes, evaluator)
    per_prompt = {way: _scores(way, known, experiment.seed) for way in ways}
    seconds = _seconds(experiment, probes, ways, prompts, watching)
    draws = resample(len(prompts), RESAMPLES, experiment.seed)
    rows = {way: _row(way, scores, seconds.get(way, []), draws) for way, scores in per_prompt.items()}
    made = Tradeoff(
        tuple(rows.values()),
        tuple(_pairs(rows, per_prompt, draws)),
        About(
            evaluator=evaluator,
            prompts=len(prompts),
            seeds=known.target.shape[1],
            backbone=experiment.backbone.label,
            sampling=_sampling_text(experiment),
            cells=tuple(dict.fromkeys([probes.cell.name, *(cell.name for cell in probes.cells.values())])),
            machine=f"{_processor()}, {torch.get_num_threads()} threads, {experiment.sampling.device}",
        ),
    )
    made.save(experiment.runs_folder)
    return made


def _probes(experiment: Experiment, wanted: str, evaluator: str) -> Probes:
    """The best cell at ``probe.step``, and the group of cells that differ in their step alone."""
    one_cut = replace(experiment, select=replace(experiment.select, schedule=[], budget=0))
    several = replace(one_cut, select=replace(one_cut.select, budget=1))
    cell = named_cell(experiment.runs_folder, wanted) if wanted else best_cell(one_cut, evaluator)
    group = at_other_steps(cell)
    if len(group) == 1:
        group = at_other_steps(best_cell(several, evaluator))
    return Probes(cell, {step: one for step, one in sorted(group.items()) if step < experiment.sampling.steps})


def _known(
    experiment: Experiment,
    probes: Probes,
    prompts: tuple[str, ...],
    evaluator: str,
    watching: Watching,
    announce: Callable[[Generation], None],
) -> Known:
    step = probes.step
    taps = [tap for cell in (probes.cell, *probes.cells.values()) for tap in load_probe(cell).spec.taps]
    world = with_all_candidates(experiment, prompts, [step, *probes.cells], [*taps, "x0", "lookahead"])
    cache = _made(world, evaluator, watching, announce)
    with watching("previews", "scores") as update:
        asked = {(step, latent): [evaluator] for latent in ("x0", "lookahead")}
        score_previews(world, asked, on_progress=update)
    fewer = None
    if experiment.tradeoff.fewer_steps:
        other = _made(in_fewer_steps(world), evaluator, watching, announce)
        fewer = by_prompt(other, other.scores(evaluator))
    return Known(
        prompts=prompts,
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


def _ways(experiment: Experiment, probes: Probes, evaluator: str) -> list[Compared]:
    asked, step, steps = experiment.tradeoff, probes.step, experiment.sampling.steps
    ways = [Compared("random", 1, steps, steps)]
    for number in asked.candidates:
        ways += single_ways(number, step=step, steps=steps, fewer_steps=asked.fewer_steps, thin=asked.thin)
        if len(probes.cells) > 1:
            seeds = experiment.prompts.seeds
            ways.append(
                progressive_way(probes.cells, evaluator, candidates=number, seeds=seeds, step=step, steps=steps)
            )
    return ways


def _scores(way: Compared, known: Known, seed: int) -> Numbers:
    """The true score of what a way keeps, mean over sets of candidates: [prompts]."""
    target = known.target if way.way != "fewer_steps" else known.fewer
    assert target is not None
    candidates = draw_candidates(len(target), target.shape[1], way.candidates, seed)
    return kept_scores(target, _stages(way, known), candidates)


def _stages(way: Compared, known: Known) -> list[Stage]:
    if way.way == "random":
        return []
    if way.way == "progressive":
        return [Stage(known.by_step[step], keep) for step, keep in way.plan]
    if way.way == "cascade":
        asked = [known.probe, known.lookahead][-len(way.plan) :]
        return [Stage(scores, keep) for scores, (_, keep) in zip(asked, way.plan, strict=True)]
    fewer = known.target if known.fewer is None else known.fewer
    scores = {"probe": known.probe, "preview": known.preview, "fewer_steps": fewer}.get(way.way, known.target)
    return [Stage(scores, 1)]


def _seconds(
    experiment: Experiment, probes: Probes, ways: Sequence[Compared], prompts: Sequence[str], watching: Watching
) -> dict[Compared, list[float]]:
    """Per prompt, of each round; all ways take turns within a round. The oracle costs what the probe costs."""
    asked = experiment.tradeoff
    timed = [way for way in ways if way.way != "oracle" and way.candidates in (1, *asked.timed)]
    if not asked.rounds:
        return {}
    shown = prompts[: asked.timed_prompts]
    judge = create(experiment.probe_evaluators[0], experiment.scoring)
    bench = Bench(experiment, load_pipeline(experiment.backbone, experiment.sampling), judge, probes.cell, probes.cells)
    found: dict[Compared, list[float]] = {way: [] for way in timed}
    with watching("time", "runs") as update:
        for way in timed:
            if way.candidates == min((1, *asked.timed)[1:], default=1):
                bench.seconds(way, shown[:1])  # the first call of anything loads and compiles
        for place in range(asked.rounds):
            for number, way in enumerate(timed):
                update(place * len(timed) + number, asked.rounds * len(timed))
                found[way].append(bench.seconds(way, shown))
        update(asked.rounds * len(timed), asked.rounds * len(timed))
    probe = {way.candidates: times for way, times in found.items() if way.way == "probe"}
    return found | {way: probe[way.candidates] for way in ways if way.way == "oracle" and way.candidates in probe}


def _row(way: Compared, scores: Numbers, seconds: Sequence[float], draws: Numbers) -> TradeoffRow:
    found = interval(float(scores.mean()), draws @ scores / len(scores), CONFIDENCE, len(scores), 0)
    low, high = (min(seconds), max(seconds)) if seconds else (math.nan, math.nan)
    return TradeoffRow(
        way=way.way,
        candidates=way.candidates,
        keep=1,
        steps=way.steps,
        schedule=way.text,
        calls=float(way.calls),
        seconds=float(np.median(seconds)) if seconds else math.nan,
        seconds_low=low,
        seconds_high=high,
        score=found.estimate,
        lower=found.lower,
        upper=found.upper,
    )


def _pairs(
    rows: Mapping[Compared, TradeoffRow], per_prompt: Mapping[Compared, Numbers], draws: Numbers
) -> Iterator[Pair]:
    """Two ways with the same candidates of the same prompts."""
    ways = {(way.way, way.candidates): way for way in rows}
    for question, first, second in _QUESTIONS:
        for name, number in ways:
            other = ways.get((second, 1 if second == "random" else number))
            if name != first or other is None:
                continue
            one = ways[name, number]
            apart = per_prompt[one] - per_prompt[other]
            found = interval(float(apart.mean()), draws @ apart / len(apart), CONFIDENCE, len(apart), 0)
            yield Pair(
                first=rows[one].text,
                second=rows[other].text,
                candidates=number,
                question=question,
                difference=found.estimate,
                lower=found.lower,
                upper=found.upper,
                calls_first=rows[one].calls,
                calls_second=rows[other].calls,
                seconds_first=rows[one].seconds,
                seconds_second=rows[other].seconds,
            )


def _sampling_text(experiment: Experiment) -> str:
    sampling = experiment.sampling
    return f"{sampling.scheduler}, {sampling.steps} steps, guidance {sampling.guidance:g}"


def _processor() -> str:
    """Its name, which Linux tells in a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
