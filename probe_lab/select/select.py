"""``ProbeSelect``: a stock pipeline that starts many candidates and finishes the promising ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.capture.backbones import family_of
from probe_lab.capture.capture import Normalize
from probe_lab.capture.preview import previewer
from probe_lab.config import Scoring
from probe_lab.errors import SelectError, nearest
from probe_lab.evaluators import Evaluator
from probe_lab.probes import Probe
from probe_lab.select.ranking import By, check_by
from probe_lab.select.running import Running
from probe_lab.select.schedule import Cut, Reader, check_probe, progressive, single_cut

SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "LCMScheduler",
    "UniPCMultistepScheduler",
)
"""One denoiser call a step, and tested: survivors are the same as without selection."""


@dataclass(frozen=True)
class Selection:
    """What a selecting call gives.

    ``images`` are those of the stock pipeline (``output``), of the kept candidates alone: prompt after prompt, each
    one's best first. ``kept`` are their candidate numbers and ``seeds`` those of their generators, [prompts][keep].
    ``scores`` [prompts, candidates, evaluators], float32, are predicted, each by the last cut that saw the candidate,
    in the evaluators' units; NaN for an evaluator that no probe which saw it predicts. ``denoiser_calls`` counts
    images: one call with six rows of images is six, and looking ahead counts too; ``of`` is what it takes to finish
    all candidates.
    """

    output: Any
    kept: tuple[tuple[int, ...], ...]
    seeds: tuple[tuple[int, ...], ...]
    scores: Tensor
    evaluators: tuple[str, ...]
    denoiser_calls: int
    of: int

    @property
    def images(self) -> Any:
        return self.output[0] if isinstance(self.output, tuple) else self.output.images


class ProbeSelect:
    """Start ``candidates`` images of every prompt, let probes read them early, and finish ``keep`` of them.

    >>> select = ProbeSelect(pipe, "runs/quickstart/step05-cnn-…", candidates=5, keep=1)
    >>> best = select(prompt="a red circle", num_inference_steps=25).images[0]

    The pipeline is a stock one and is as before after every call, also after an error or Ctrl-C. Kept candidates are
    the images that the same generators give without selection.

    Args:
        probe: a trained probe or the folder of its cell; several for a ``schedule``.
        cutoff_step_index: choose after so many denoiser calls, instead of where the probe was trained.
        cutoff_step_ratio: the same as a share of the steps.
        schedule: ``[{"step": 2, "keep": 6}, {"step": 5, "keep": 1}]``: several cuts, a probe trained at each.
            With two cuts at one step and two probes of it, the one without previews thins out the candidates first.
        accept: where several cuts are made, a prompt's choice is final as soon as the conformal intervals of this
            level, from the probe's validation prompts, part the best from the rest; 0: never before the last cut. Needs
            a cell's folder as ``probe`` and an evaluator as ``by``.
        by: an evaluator (default: the probe's first), weights of several, or ``pareto``.
        scoring: how evaluators run whose scores of previews a probe reads (its ``scalars``).
        evaluators: some of these that are loaded already, to be used as they are.
        normalize, tokens, size: as the probe's cache was captured, see ``Capture``.
        on_cut: told after each cut the step and, for each prompt, the candidates that go on, int64.

    Raises:
        SelectError: numbers, a probe, a scheduler or generators that do not fit together.
        CaptureError: a pipeline or a tap that cannot be read.
        ConfigError, ScoreError: an evaluator of previews that cannot run.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        probe: Probe | Path | str | Sequence[Probe | Path | str],
        *,
        candidates: int = 5,
        keep: int = 1,
        cutoff_step_index: int | None = None,
        cutoff_step_ratio: float | None = None,
        schedule: Sequence[Mapping[str, int]] | None = None,
        by: By | None = None,
        accept: float = 0.0,
        scoring: Scoring | None = None,
        evaluators: Sequence[Evaluator] = (),
        normalize: Normalize = "all",
        tokens: int = 0,
        size: int = 0,
        on_cut: Callable[[int, list[Tensor]], None] | None = None,
    ) -> None:
        given = [probe] if isinstance(probe, Probe | Path | str) else list(probe)
        self._cutoff = (cutoff_step_index, cutoff_step_ratio)
        _check(candidates, keep, len(given), self._cutoff, schedule, accept)
        self._readers = [Reader.of(one) for one in given]
        self.probes = [reader.probe for reader in self._readers]
        self.evaluators = tuple(dict.fromkeys(name for one in self.probes for name in one.spec.evaluators))
        self.by: By = by or self.probes[0].spec.evaluators[0]
        self._pipe, self._family = pipe, family_of(pipe)
        self._candidates, self._keep = candidates, keep
        self._schedule, self._accept = schedule, accept
        self._layout: dict[str, Any] = {"normalize": normalize, "tokens": tokens, "size": size}
        judged = {each.evaluator for one in self.probes for each in one.spec.previews}
        ready = {each.name: each for each in evaluators}
        self._preview = previewer(pipe, scoring, [ready.get(name, name) for name in sorted(judged)])
        self._on_cut = on_cut or (lambda step, rows: None)
        for one in self.probes:
            check_by(self.by, one)
        if accept and self.by not in self.probes[0].spec.evaluators:
            raise SelectError(f"accept={accept} compares intervals of one evaluator and by is {self.by}: name one")

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **options: Any,
    ) -> Selection:
        """Call the pipeline with ``options``. ``generator``: one per candidate, prompt after prompt; one, from which
        theirs are seeded; or None for fresh ones."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self._refuse_scheduler()
        generators = self._generators(generator, len(prompts))
        running = Running(
            self._pipe,
            self._family,
            prompts=prompts,
            candidates=self._candidates,
            keep=self._keep,
            cuts_of=self._cuts,
            by=self.by,
            evaluators=self.evaluators,
            layout=self._layout,
            preview=self._preview,
            on_cut=self._on_cut,
        )
        output = running.run({**options, **self._rows_of(prompts, options), "generator": generators})
        kept = running.kept
        return Selection(
            output=output,
            kept=tuple(tuple(row % self._candidates for row in rows.tolist()) for rows in kept),
            seeds=tuple(tuple(generators[row].initial_seed() for row in rows.tolist()) for rows in kept),
            scores=running.scores,
            evaluators=self.evaluators,
            denoiser_calls=running.denoised,
            of=len(generators) * running.steps,
        )

    def _cuts(self, steps: int) -> tuple[Cut, ...]:
        """What is done in a call of so many steps."""
        if self._schedule is not None:
            cuts = progressive(self._schedule, self._readers, self._candidates, self._keep, self._accept, steps)
        else:
            cuts = single_cut(self._readers[0], self._keep, *self._cutoff, steps)
        for cut in cuts:
            check_probe(cut, self._family, steps)
        return cuts

    def _rows_of(self, prompts: list[str], options: Mapping[str, Any]) -> dict[str, Any]:
        """The prompts, and every option that has an entry for each, so that each prompt gets its candidates."""
        if "num_images_per_prompt" in options:
            raise SelectError(
                f"num_images_per_prompt={options['num_images_per_prompt']} is what candidates={self._candidates} says: "
                "leave it out"
            )
        negative = options.get("negative_prompt")
        each = [negative] * len(prompts) if isinstance(negative, str) else list(negative or [])
        if each and len(each) != len(prompts):
            raise SelectError(f"there are {len(each)} negative prompts for {len(prompts)} prompts: give one each")
        rows = {"prompt": prompts} | ({"negative_prompt": each} if each else {})
        if not self._family.mixes_masks:
            return {**rows, "num_images_per_prompt": self._candidates}
        repeated = {name: [text for text in texts for _ in range(self._candidates)] for name, texts in rows.items()}
        return {**repeated, "num_images_per_prompt": 1}

    def _generators(
        self, given: torch.Generator | Sequence[torch.Generator] | None, prompts: int
    ) -> list[torch.Generator]:
        count = prompts * self._candidates
        if given is None or isinstance(given, torch.Generator):
            device = "cpu" if given is None else given.device
            seeds = torch.randint(2**63 - 1, (count,), generator=given, device=device)
            return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        if len(given) != count:
            raise SelectError(
                f"there are {len(given)} generators for {count} candidates ({prompts} prompts × {self._candidates}): "
                "give one for each, or a single one"
            )
        return list(given)

    def _refuse_scheduler(self) -> None:
        name = type(self._pipe.scheduler).__name__
        if name not in SCHEDULERS:
            raise SelectError(f"selection is not known to be safe with {name}: {nearest(name, SCHEDULERS)}")


def _check(
    candidates: int,
    keep: int,
    probes: int,
    cutoff: tuple[int | None, float | None],
    schedule: Sequence[Mapping[str, int]] | None,
    accept: float,
) -> None:
    """SelectError for numbers that do not fit together."""
    if not 1 <= keep <= candidates:
        raise SelectError(f"keep={keep} of candidates={candidates} is not allowed: keep at least 1 and at most all")
    if not probes:
        raise SelectError("there is no probe to ask: give one, or the folder of its cell")
    if schedule is None:
        if probes > 1:
            raise SelectError(
                f"there are {probes} probes and one cut: give a schedule with a cut for each, or one probe"
            )
        if accept:
            raise SelectError(
                f"accept={accept} ends a choice before the last cut, and there is one cut: give a schedule, or leave "
                "it out"
            )
    elif cutoff != (None, None):
        raise SelectError(
            f"cutoff_step_index={cutoff[0]}, cutoff_step_ratio={cutoff[1]} and a schedule both say when to choose: "
            "give one of them"
        )
