"""Run the pipeline of an experiment for some prompts: with selection, or all candidates to their end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.cache.faults import Fault
from probe_lab.capture.call import PipelineCall
from probe_lab.capture.capture import Capture
from probe_lab.capture.no_pictures import decodes_watched
from probe_lab.config import Experiment
from probe_lab.generation.prompts import sample_seed
from probe_lab.previews.decoding import pictures
from probe_lab.selection.candidates import Candidate, PromptCandidates
from probe_lab.selection.live_view import RemainingCandidates, Watch
from probe_lab.selection.probe_select import ProbeSelect, Selection
from probe_lab.selection.setup import Setup
from probe_lab.taps import Tap

_X0 = Tap("", "x0")


@dataclass(frozen=True)
class SampledRows:
    """The rows, the denoiser calls that they took of those for all candidates, and the seconds."""

    rows: list[PromptCandidates]
    calls: int
    of: int
    seconds: float


class CandidateSampler:
    """Draws with one pipeline; ``truncated`` says of each prompt whether the text encoder reads it to its end."""

    def __init__(self, experiment: Experiment, pipe: DiffusionPipeline, setup: Setup, seed: int, watch: Watch) -> None:
        self._experiment, self._pipe, self._setup, self._seed, self._watch = experiment, pipe, setup, seed, watch
        self._candidates = experiment.select.candidates
        self._field = RemainingCandidates([], self._candidates, experiment.sampling.steps)

    def select(self, prompts: Sequence[str], truncated: Sequence[bool]) -> SampledRows:
        """As many prompts at a time as ``sampling.batch_size`` has room for; one if it has none."""
        asked, setup = self._experiment.select, self._setup
        self._field = RemainingCandidates(prompts, self._candidates, self._experiment.sampling.steps)
        select = ProbeSelect(
            self._pipe,
            [each.given for each in setup.asked],
            candidates=asked.candidates,
            keep=asked.keep,
            schedule=setup.schedule,
            by=setup.by,
            scoring=self._experiment.scoring,
            normalize=setup.capture.normalize,
            tokens=setup.capture.tokens,
            size=setup.capture.size,
            on_cut=self._cut,
        )
        rows: list[PromptCandidates] = []
        calls = of = 0
        seconds = 0.0
        together = max(1, self._experiment.sampling.batch_size // self._candidates)
        for first in range(0, len(prompts), together):
            part = prompts[first : first + together]
            self._field.begin(first)
            started = time.monotonic()
            found, x0 = self._run(select, part)
            seconds += time.monotonic() - started
            calls, of = calls + found.denoiser_calls, of + found.of
            self._field.calls = calls  # with those that looked ahead
            rows += [
                replace(self._row(found, x0, place, prompt), truncated=truncated[first + place])
                for place, prompt in enumerate(part)
            ]
        return SampledRows(rows, calls, of, seconds)

    def finish(self, rows: Sequence[PromptCandidates]) -> tuple[list[PromptCandidates], float, int]:
        """The rows with all candidates finished, without selection; the seconds that it took, and the largest
        difference of a kept image from itself, in grey levels."""
        sampling, size = self._experiment.sampling, self._experiment.sampling.batch_size
        jobs = [(row.prompt, one) for row in rows for one in row.candidates]
        images: dict[tuple[str, int], Image] = {}
        faults: dict[tuple[str, int], Fault] = {}
        started = time.monotonic()
        for start in range(0, len(jobs), size):
            part = jobs[start : start + size]
            options = family_of(self._pipe).call_options(sampling, [prompt for prompt, _ in part])
            generators = [torch.Generator().manual_seed(one.seed) for _, one in part]
            with decodes_watched(self._pipe) as decodes:
                output = self._pipe(**options, generator=generators)
            faulty = decodes.faults(output)
            faults |= {(part[place][0], part[place][1].number): fault for place, fault in faulty.items()}
            images |= {(prompt, one.number): image for (prompt, one), image in zip(part, output.images, strict=True)}
        seconds = time.monotonic() - started
        apart = max(_apart(one.image, images[row.prompt, one.number]) for row in rows for one in row.kept)

        def finished(prompt: str, one: Candidate) -> Candidate:
            if one.place is not None:
                return one
            key = prompt, one.number
            return replace(one, image=images[key], preview=False, fault=faults.get(key, one.fault))

        whole = [replace(row, candidates=[finished(row.prompt, one) for one in row.candidates]) for row in rows]
        return whole, seconds, apart

    def _run(self, select: ProbeSelect, prompts: Sequence[str]) -> tuple[Selection, Capture]:
        options: dict[str, Any] = family_of(self._pipe).call_options(self._experiment.sampling, list(prompts))
        del options["prompt"]
        generators = [torch.Generator().manual_seed(seed) for prompt in prompts for seed in self._seeds(prompt)]
        with ExitStack() as stack:
            x0 = stack.enter_context(Capture(self._pipe, [str(_X0)], self._setup.steps))
            PipelineCall(self._pipe, family_of(self._pipe), before_step=lambda *_: self._step(len(prompts))).watch(
                stack
            )
            return select(prompts, generator=generators, **options), x0

    def _seeds(self, prompt: str) -> list[int]:
        """Those that `generate` would take."""
        return [sample_seed(prompt, index, self._seed) for index in range(self._candidates)]

    def _step(self, prompts: int) -> None:
        self._field.steps = len(self._pipe.scheduler.timesteps)  # which may be more than were asked for
        self._field.advance(prompts)
        self._watch.stepped(self._field)

    def _cut(self, step: int, kept: list[Tensor]) -> None:
        self._field.prune(step, kept)
        self._watch.pruned(self._field, step, kept)

    def _row(self, found: Selection, x0: Capture, place: int, prompt: str) -> PromptCandidates:
        """Prompt number ``place`` of one call."""
        kept, gone = found.kept[place], self._field.gone[self._field.first + place]
        before = sum(map(len, found.kept[:place]))
        scores = found.scores[place]
        by = self._setup.shown[0]
        predicted_by = torch.nan_to_num(scores[:, found.evaluators.index(by)], nan=-math.inf).tolist()
        others = sorted(gone, key=lambda one: (-gone[one], -predicted_by[one]))
        candidates = []
        for number in (*kept, *others):
            predicted = dict(zip(found.evaluators, scores[number].tolist(), strict=True))
            fault = found.faults[place].get(number)
            one = Candidate(number, self._seeds(prompt)[number], predicted, fault=fault, unscaled=self._setup.unscaled)
            if number in gone:
                row = place * self._candidates + number
                picture = self._preview(x0[gone[number], _X0][row : row + 1])
                one = replace(one, pruned=gone[number], image=picture, preview=True)
            else:
                rank = kept.index(number)
                one = replace(one, place=rank, image=found.images[before + rank])
            candidates.append(one)
        return PromptCandidates(prompt, candidates)

    def _preview(self, x0: Tensor) -> Image | None:
        """None where the autoencoder is elsewhere between two calls of the pipeline."""
        return pictures(self._pipe, x0)[0] if self._experiment.sampling.offload == "none" else None


def _apart(one: Image | None, other: Image) -> int:
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())
