"""``probe-lab tradeoff``: what each way of selecting gives, in true score, for what it costs in calls and seconds."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from probe_lab.capture.pipelines import load_pipeline
from probe_lab.capture.plan import Plan as Generation
from probe_lab.config import Experiment
from probe_lab.errors import SelectError
from probe_lab.evaluators import create
from probe_lab.metrics.bootstrap import Interval, Scale, mean_over, resample
from probe_lab.progress import Watching
from probe_lab.select.tradeoff.known import Known, Probes, known_of, probes_of
from probe_lab.select.tradeoff.plans import Compared, progressive_way, single_ways
from probe_lab.select.tradeoff.policies import Numbers, Stage, draw_candidates, kept_scores
from probe_lab.select.tradeoff.records import About, Pair, Tradeoff, TradeoffRow
from probe_lab.select.tradeoff.timing import Bench
from probe_lab.select.tradeoff.ways import Question, Way
from probe_lab.select.tradeoff.world import held_out_prompts

RESAMPLES, CONFIDENCE = 2000, 0.95

_QUESTIONS: Sequence[tuple[Question, Way, Way]] = (
    ("beats_preview", "cascade", "preview"),
    ("beats_preview", "probe", "preview"),
    ("progressive", "progressive", "probe"),
    ("beats_random", "probe", "random"),
)


def measure(
    experiment: Experiment, wanted: str = "", *, watching: Watching, announce: Callable[[Generation], None]
) -> Tradeoff:
    """Compare all ways on the experiment's test prompts, and write the result into its runs folder.

    ``wanted`` names the cell of the single cut, the best one on validation where empty. The evaluator is the first that
    the experiment's probes predict. Candidates are generated and scored in caches of their own, which an interrupted
    call continues.

    Raises:
        SelectError: no cell, no test prompt, no fewer steps, or an evaluator whose scores were imported.
        CacheError, CaptureError, ScoreError, ConfigError: as in ``generate`` and ``score``.
        ReportError: no cell is finished, or the files cannot be written.
    """
    evaluator, fewer = experiment.probe_evaluators[0], experiment.tradeoff.fewer_steps
    if fewer >= experiment.sampling.steps:
        raise SelectError(
            f"tradeoff.fewer_steps={fewer} are not fewer than sampling.steps={experiment.sampling.steps}: set fewer, "
            "or 0 to leave that way out"
        )
    probes = probes_of(experiment, wanted, evaluator)
    prompts = held_out_prompts(experiment)
    known = known_of(experiment, probes, prompts, evaluator, watching, announce)
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


def _ways(experiment: Experiment, probes: Probes, evaluator: str) -> list[Compared]:
    asked, step, steps = experiment.tradeoff, probes.step, experiment.sampling.steps
    ways = [Compared("random", 1, steps, steps)]
    for number in asked.candidates:
        ways += single_ways(
            number,
            step=step,
            steps=steps,
            fewer_steps=asked.fewer_steps,
            thin=asked.thin,
            looks_ahead=probes.spec.looks_ahead,
        )
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
            if way.candidates == min(asked.timed, default=1):
                bench.seconds(way, shown[:1])  # the first call of anything loads and compiles
        for place in range(asked.rounds):
            for number, way in enumerate(timed):
                update(place * len(timed) + number, asked.rounds * len(timed))
                found[way].append(bench.seconds(way, shown))
        update(asked.rounds * len(timed), asked.rounds * len(timed))
    probe = {way.candidates: times for way, times in found.items() if way.way == "probe"}
    return found | {way: probe[way.candidates] for way in ways if way.way == "oracle" and way.candidates in probe}


def _row(way: Compared, scores: Numbers, seconds: Sequence[float], draws: Numbers) -> TradeoffRow:
    found = _mean(scores, draws)
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
            found = _mean(per_prompt[one] - per_prompt[other], draws, "difference")
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


def _mean(values: Numbers, draws: Numbers, scale: Scale = "plain") -> Interval:
    return mean_over(values, np.zeros(len(values), dtype=np.bool_), scale).interval(draws, CONFIDENCE)


def _sampling_text(experiment: Experiment) -> str:
    sampling = experiment.sampling
    return f"{sampling.scheduler}, {sampling.steps} steps, guidance {sampling.guidance:g}"


def _processor() -> str:
    """Its name, which Linux tells in a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
