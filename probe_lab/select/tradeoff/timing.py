"""The wall-clock of each way, everything counted: text encoder, capture, probes, previews, evaluator, autoencoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from probe_lab.capture.backbones import family_of
from probe_lab.capture.prompts import sample_seed
from probe_lab.config import Experiment
from probe_lab.evaluators import Evaluator, score_all
from probe_lab.probes import Probe, preview_probe
from probe_lab.select.select import ProbeSelect
from probe_lab.select.tradeoff.plans import Compared

Draw = Callable[[list[str]], object]


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

    def _draw(self, way: Compared) -> Draw:
        if way.way in ("random", "best_of_n", "fewer_steps"):
            return lambda prompts: self._finish_all(way, prompts)
        select = self._select(way)

        def draw(prompts: list[str]) -> object:
            options = self._options(way, prompts)
            del options["prompt"]
            return select(prompts, generator=self._generators(way, prompts), **options)

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
        if way.way == "preview":
            asked = [self._preview("preview", way)]
        elif way.way == "progressive":
            asked = [self.cells[step] for step, _ in way.plan]
        elif way.way == "cascade":
            asked = [self._preview("lookahead", way)]
            if len(way.plan) > 1:
                asked.insert(0, self.cell)
        capture = self.experiment.capture
        return ProbeSelect(
            self.pipe,
            asked,
            candidates=way.candidates,
            keep=1,
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
