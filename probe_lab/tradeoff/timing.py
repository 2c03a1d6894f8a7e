"""What each way costs in seconds and in arithmetic, with text encoder, capture, probes, previews, evaluator and
autoencoder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from probe_lab.backbones.families import family_of
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.config import Experiment
from probe_lab.evaluators import Evaluator, create, score_all
from probe_lab.flop_counter import OperationCounter
from probe_lab.generation.prompts import sample_seed
from probe_lab.probes import Probe, preview_probe
from probe_lab.progress import Watching
from probe_lab.selection.probe_select import ProbeSelect
from probe_lab.tradeoff.candidate_scores import Probes
from probe_lab.tradeoff.compared_ways import Compared
from probe_lab.tradeoff.way_names import PLANS, Way

Draw = Callable[[list[str]], object]
UNTIMED: tuple[Way, ...] = ("oracle", "thinned")
"""Of which there is no call: nothing knows the best, and nobody draws what chance then throws away."""


@dataclass(frozen=True)
class Cost:
    """Seconds per prompt of each round, and floating-point operations per prompt."""

    seconds: Sequence[float] = ()
    flops: float = math.nan


def costs_of(
    experiment: Experiment, probes: Probes, ways: Sequence[Compared], prompts: Sequence[str], watching: Watching
) -> dict[Compared, Cost]:
    """Of plans, and of the ways whose candidates are in ``tradeoff.timed``; none of them with no ``tradeoff.rounds``.

    All ways take turns within a round. The oracle costs what the probe costs.
    """
    settings = experiment.tradeoff
    if not settings.rounds:
        return {}
    timed = [
        way for way in ways if way.way not in UNTIMED and (way.way in PLANS or way.candidates in (1, *settings.timed))
    ]
    shown = prompts[: settings.timed_prompts]
    judge = create(experiment.probe_evaluators[0], experiment.scoring)
    bench = Bench(experiment, load_pipeline(experiment.backbone, experiment.sampling), judge, probes.cell, probes.cells)
    seconds: dict[Compared, list[float]] = {way: [] for way in timed}
    runs = (settings.rounds + 1) * len(timed)
    with watching("time", "runs") as update:
        # Counting goes first: the first call of anything loads and compiles.
        flops = {}
        for done, way in enumerate(timed):
            update(done, runs)
            flops[way] = bench.flops(way, shown[0])
        for done in range(len(timed), runs):
            update(done, runs)
            way = timed[done % len(timed)]
            seconds[way].append(bench.seconds(way, shown))
        update(runs, runs)
    costs = {way: Cost(times, flops[way]) for way, times in seconds.items()}
    probe = {way.candidates: cost for way, cost in costs.items() if way.way == "probe"}
    return costs | {way: probe[way.candidates] for way in ways if way.way == "oracle" and way.candidates in probe}


@dataclass(frozen=True)
class Bench:
    """What ways are timed with: the pipeline, the evaluator, the probe's ``cell``, and its like ``cells`` by step."""

    experiment: Experiment
    pipe: DiffusionPipeline
    judge: Evaluator
    cell: Path
    cells: Mapping[int, Path]

    def seconds(self, way: Compared, prompts: Sequence[str]) -> float:
        """Per prompt; as many prompts share a call as ``sampling.batch_size`` has room for, one if it has none."""
        draw = self._draw(way)
        together = max(1, self.experiment.sampling.batch_size // way.candidates)
        began = time.perf_counter()
        for first in range(0, len(prompts), together):
            draw(list(prompts[first : first + together]))
        return (time.perf_counter() - began) / len(prompts)

    def flops(self, way: Compared, prompt: str) -> float:
        """Of one prompt, whatever PyTorch's operators compute for it: a multiplication and an addition are two."""
        draw = self._draw(way)
        with OperationCounter() as counter:
            draw([prompt])
        return float(counter.total)

    def _draw(self, way: Compared) -> Draw:
        if way.way in ("random", "best_of_n", "fewer_steps"):
            return lambda prompts: self._finish_all(way, prompts)
        select = self._select(way)

        def draw(prompts: list[str]) -> object:
            options = self._options(way, prompts)
            del options["prompt"]
            images = select(prompts, generator=self._generators(way, prompts), **options).images
            if way.finished > 1:  # the evaluator takes the best
                score_all([self.judge], images, [prompt for prompt in prompts for _ in range(way.finished)])
            return images

        return draw

    def _finish_all(self, way: Compared, prompts: list[str]) -> None:
        """All candidates to their end, and the evaluator where one is chosen by it."""
        repeated = [prompt for prompt in prompts for _ in range(way.candidates)]
        if family_of(self.pipe).mixes_masks:
            options = self._options(way, repeated)
        else:  # the text encoder reads each prompt once
            options = self._options(way, prompts) | {"num_images_per_prompt": way.candidates}
        images = self.pipe(**options, generator=self._generators(way, prompts)).images
        if way.way != "random":
            score_all([self.judge], images, repeated)

    def _options(self, way: Compared, prompts: list[str]) -> dict[str, Any]:
        sampling = replace(self.experiment.sampling, steps=way.steps)
        return family_of(self.pipe).call_options(sampling, prompts)

    def _select(self, way: Compared) -> ProbeSelect:
        asked: list[Probe | Path] = [self.cell]
        if way.way in ("preview", "lookahead"):
            asked = [self._preview(way.way, way)]
        elif way.way == "progressive":
            asked = [self.cells[step] for step, _ in way.plan]
        elif way.way == "cascade":
            asked = [self._preview("lookahead", way)]
            if len(way.plan) > 1:
                asked.insert(0, self.cell)
        elif way.way in PLANS:
            first = PLANS[way.way]
            asked = [self.cell if first == "probe" else self._preview(first, way)]
            if len(way.plan) > 1:
                asked.append(self._preview("lookahead", way))
        capture = self.experiment.capture
        return ProbeSelect(
            self.pipe,
            asked,
            candidates=way.candidates,
            keep=way.finished,
            schedule=way.schedule,
            by=self.judge.name,
            scoring=self.experiment.scoring,
            evaluators=[self.judge],  # as the other ways have it, loaded
            normalize=capture.normalize,
            tokens=capture.tokens,
            size=capture.size,
        )

    def _preview(self, word: str, way: Compared) -> Probe:
        return preview_probe(f"{word}:{self.judge.name}", step=way.plan[0][0], total_steps=way.steps)

    def _generators(self, way: Compared, prompts: Sequence[str]) -> list[torch.Generator]:
        return [
            torch.Generator().manual_seed(sample_seed(prompt, index, self.experiment.seed))
            for prompt in prompts
            for index in range(way.candidates)
        ]
