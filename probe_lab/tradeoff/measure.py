"""``probe-lab tradeoff``: what each way of selecting gives, in true score, for what it costs in calls and seconds."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from probe_lab.config import Experiment
from probe_lab.errors import SelectError
from probe_lab.generation.measured_plan import Plan as Generation
from probe_lab.metrics.bootstrap import resample
from probe_lab.metrics.per_prompt import Floats
from probe_lab.progress import Watching
from probe_lab.tradeoff.budget_plans import Sampler, stages_of
from probe_lab.tradeoff.candidate_scores import (
    CandidateScores,
    Probes,
    planning_samplers,
    probes_of,
    scores_of_candidates,
    thinning_of,
)
from probe_lab.tradeoff.compared_ways import Compared, planned_ways, progressive_way, single_ways
from probe_lab.tradeoff.comparisons import WayScores, compare_ways, mean_interval
from probe_lab.tradeoff.policies import Stage, draw_candidates, kept_scores
from probe_lab.tradeoff.records import About, Tradeoff, TradeoffRow
from probe_lab.tradeoff.test_prompts import held_out_prompts, step_counts
from probe_lab.tradeoff.timing import Cost, costs_of
from probe_lab.tradeoff.way_names import PLANS

RESAMPLES = 2000


def measure(
    experiment: Experiment, wanted: str = "", *, watching: Watching, announce: Callable[[Generation], None]
) -> Tradeoff:
    """Compare all ways on the experiment's test prompts, and write the result into its runs folder.

    ``wanted`` names the cell of the single cut, the best one on validation where empty. The evaluator is the first that
    the experiment's probes predict. Schedules, plans and the cascade's share are chosen on validation prompts.
    Candidates are generated and scored in caches of their own, which an interrupted call continues.

    Raises:
        SelectError: no cell, no test or validation prompt, no fewer steps, or an evaluator whose scores were imported.
        ProbeError: "shipped" where none is, for this backbone.
        CacheError, CaptureError, ScoreError, ConfigError: as in ``generate`` and ``score``.
        ReportError: no cell is finished, or the files cannot be written.
    """
    evaluator = experiment.probe_evaluators[0]
    fewest = [steps for steps in step_counts(experiment) if steps >= experiment.sampling.steps]
    if fewest:
        raise SelectError(
            f"tradeoff.fewer_steps={fewest[0]} are not fewer than sampling.steps={experiment.sampling.steps}: set "
            "fewer, or 0 to leave that way out"
        )
    prompts = held_out_prompts(experiment)
    probes = probes_of(experiment, wanted, evaluator)
    thinning = thinning_of(experiment, probes, evaluator, watching, announce)
    samplers = planning_samplers(experiment, probes, evaluator, watching, announce)
    ways = _ways(experiment, probes, evaluator, thinning.share, samplers)
    scored = scores_of_candidates(experiment, probes, prompts, evaluator, watching, announce)
    costs = costs_of(experiment, probes, ways, prompts, watching)
    draws = resample(len(prompts), RESAMPLES, experiment.seed)
    measured = []
    for way in ways:
        scores = _scores(way, scored, experiment.seed)
        measured.append(WayScores(_row(way, scores, costs.get(way, Cost()), draws), scores))
    made = Tradeoff(
        tuple(way.row for way in measured),
        compare_ways(measured, scored, probes.step, draws),
        About(
            evaluator=evaluator,
            prompts=len(prompts),
            seeds=scored.whole.target.shape[1],
            backbone=experiment.backbone.label,
            sampling=_sampling_text(experiment),
            cells=tuple(dict.fromkeys([probes.cell.name, *(cell.name for cell in probes.cells.values())])),
            machine=f"{_processor()}, {torch.get_num_threads()} threads, {experiment.sampling.device}",
            thinning=thinning,
        ),
    )
    made.save(experiment.runs_folder)
    return made


def _ways(
    experiment: Experiment, probes: Probes, evaluator: str, thin: float, samplers: Sequence[Sampler]
) -> list[Compared]:
    step, steps = probes.step, experiment.sampling.steps
    ways = [Compared("random", 1, steps, steps)]
    for number in experiment.tradeoff.candidates:
        ways += single_ways(
            number,
            step=step,
            steps=steps,
            fewer_steps=step_counts(experiment),
            thin=thin,
            looks_ahead=probes.spec.looks_ahead,
        )
        if len(probes.cells) > 1:
            seeds = experiment.prompts.seeds
            ways.append(
                progressive_way(probes.cells, evaluator, candidates=number, seeds=seeds, step=step, steps=steps)
            )
    looks_ahead = probes.spec.looks_ahead
    return ways + planned_ways(experiment.tradeoff.budgets, samplers, experiment.seed, looks_ahead=looks_ahead)


def _scores(way: Compared, scored: CandidateScores, seed: int) -> Floats:
    """The true score of what a way keeps, mean over sets of candidates: [prompts]."""
    target = scored.fewer.get(way.steps, scored.whole.target)  # those of all steps are in `whole`
    candidates = draw_candidates(len(target), target.shape[1], way.candidates, seed)
    return kept_scores(target, _stages(way, scored, seed), candidates)


def _stages(way: Compared, scored: CandidateScores, seed: int) -> list[Stage]:
    if way.way == "random":
        return []
    if way.way in PLANS:
        return stages_of(PLANS[way.way], way.plan, scored.samplers[way.steps])
    if way.way == "progressive":
        return [Stage(scored.by_step[step], keep) for step, keep in way.plan]
    whole = scored.whole
    if way.way in ("cascade", "thinned"):
        first = whole.probe if way.way == "cascade" else np.random.default_rng(seed).random(whole.probe.shape)
        deciding = [first, whole.lookahead][-len(way.plan) :]
        return [Stage(scores, keep) for scores, (_, keep) in zip(deciding, way.plan, strict=True)]
    if way.way == "fewer_steps":
        return [Stage(scored.fewer[way.steps], 1)]
    scores = {"probe": whole.probe, "preview": whole.preview, "lookahead": whole.lookahead}.get(way.way, whole.target)
    return [Stage(scores, 1)]


def _row(way: Compared, scores: Floats, cost: Cost, draws: Floats) -> TradeoffRow:
    mean, seconds = mean_interval(scores, draws), cost.seconds
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
        score=mean.estimate,
        lower=mean.lower,
        upper=mean.upper,
        flops=cost.flops,
        budget=way.budget,
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
