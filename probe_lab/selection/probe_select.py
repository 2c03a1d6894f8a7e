"""``ProbeSelect``: a stock pipeline that starts many candidates and finishes the promising ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.backbones.schedulers import name_of
from probe_lab.cache.faults import Fault
from probe_lab.capture.capture import Normalize
from probe_lab.config import Scoring
from probe_lab.config.unknown_keys import FORMER
from probe_lab.errors import SelectError, nearest
from probe_lab.evaluators import Evaluator
from probe_lab.previews.decoding import previewer
from probe_lab.probes import Probe, load_probe
from probe_lab.selection.call_inputs import CallPrompts, Seed, generators_of, seeds_of
from probe_lab.selection.ranking import By, check_by
from probe_lab.selection.schedule import Cut, check_probe, placed, progressive, single_cut
from probe_lab.selection.selecting_call import Running

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
    one's best first. ``kept`` are their candidate numbers, [prompts][keep]. ``seeds``, alike, are those with which
    ``manual_seed`` draws them again; None where no seed does, because the generator was used before or stands for
    several candidates, or because latents were given.
    ``scores`` [prompts, candidates, evaluators], float32, are predicted, each by the last cut that saw the candidate,
    in the evaluators' units; NaN for an evaluator that no probe which saw it predicts, and for a candidate whose
    numbers were not finite. ``denoiser_calls`` counts images: one call with six rows of images is six, and looking
    ahead counts too; ``of`` is what as many steps as the call made would take with all candidates.

    ``faults`` maps, for each prompt, the candidates that are no choice to the reason: ``not_finite`` where latents,
    scores or the finished image held NaN or infinity, ``flagged`` where the pipeline's safety checker made the image
    black.
    """

    output: Any
    kept: tuple[tuple[int, ...], ...]
    seeds: tuple[tuple[Seed, ...], ...]
    scores: Tensor
    evaluators: tuple[str, ...]
    denoiser_calls: int
    of: int
    faults: tuple[Mapping[int, Fault], ...] = ()

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
        accept: no longer there: anything but 0 is refused.
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
        self.probes = [one if isinstance(one, Probe) else load_probe(Path(one)) for one in given]
        self.evaluators = tuple(dict.fromkeys(name for one in self.probes for name in one.spec.evaluators))
        self.by: By = by or self.probes[0].spec.evaluators[0]
        self._pipe, self._family = pipe, family_of(pipe)
        self._candidates, self._keep = candidates, keep
        self._schedule = schedule
        self._layout: dict[str, Any] = {"normalize": normalize, "tokens": tokens, "size": size}
        judged = {each.evaluator for one in self.probes for each in one.spec.previews}
        ready = {each.name: each for each in evaluators}
        self._preview = previewer(pipe, scoring, [ready.get(name, name) for name in sorted(judged)])
        self._on_cut = on_cut or (lambda step, rows: None)
        for one in self.probes:
            check_by(self.by, one)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **options: Any,
    ) -> Selection:
        """Call the pipeline with ``options``. ``generator``: one per candidate, prompt after prompt; one, from which
        theirs are seeded; or None for fresh ones. ``prompt_embeds``, with what the pipeline takes beside them (pooled
        ones, masks, negative ones), stand for prompts: one row of each tensor per prompt."""
        if "num_images_per_prompt" in options:
            raise SelectError(
                f"num_images_per_prompt={options['num_images_per_prompt']} is what candidates={self._candidates} says: "
                "leave it out"
            )
        prompts = CallPrompts.of(prompt, options, self._candidates, repeat=self._family.mixes_masks)
        self._refuse(prompts)
        generators = generators_of(generator, prompts.count, self._candidates)
        seeds = seeds_of(generators)
        if options.get("latents") is not None:
            seeds = [None] * len(seeds)
        running = Running(
            self._pipe,
            self._family,
            prompts=prompts.texts or ("",) * prompts.count,
            candidates=self._candidates,
            keep=self._keep,
            probes=self.probes,
            cuts_of=functools.partial(self._cuts, self._asked_steps(options)),
            by=self.by,
            evaluators=self.evaluators,
            layout=self._layout,
            preview=self._preview,
            on_cut=self._on_cut,
        )
        output = running.run({**self._defaults(options), **options, **prompts.options, "generator": generators})
        kept = running.kept
        return Selection(
            output=output,
            kept=tuple(tuple(row % self._candidates for row in rows.tolist()) for rows in kept),
            seeds=tuple(tuple(seeds[row] for row in rows.tolist()) for rows in kept),
            scores=running.scores,
            evaluators=self.evaluators,
            denoiser_calls=running.denoised,
            of=len(generators) * running.steps,
            faults=self._faults(running, prompts.count),
        )

    def _faults(self, running: Running, prompts: int) -> tuple[Mapping[int, Fault], ...]:
        """By candidate, of each prompt: those that came last at a cut, and finished images."""
        finished = torch.cat(running.kept).tolist()
        found: dict[int, Fault] = dict.fromkeys(sorted(running.broken), "not_finite")
        found |= {finished[place]: fault for place, fault in running.faults.items()}
        by_prompt: list[dict[int, Fault]] = [{} for _ in range(prompts)]
        for row, fault in found.items():
            by_prompt[row // self._candidates][row % self._candidates] = fault
        return tuple(by_prompt)

    def _asked_steps(self, options: Mapping[str, Any]) -> int:
        """``num_inference_steps`` of a call; 0 where its own timesteps or sigmas are given."""
        if any(options.get(name) is not None for name in ("timesteps", "sigmas")):
            return 0
        usual = inspect.signature(type(self._pipe).__call__).parameters["num_inference_steps"].default
        return int(options.get("num_inference_steps", usual))

    def _cuts(self, asked: int, steps: int) -> tuple[Cut, ...]:
        """What is done in a call whose schedule has so many steps.

        A scheduler may make more steps than it is asked for. A probe knows how many its cache asked for, so one that is
        asked for again is at the same place of the same schedule.
        """
        if all(probe.spec.total_steps == asked for probe in self.probes):
            steps = asked
        if self._schedule is not None:
            cuts = progressive(self._schedule, self.probes, self._candidates, self._keep, steps)
        else:
            cuts = single_cut(self.probes[0], self._keep, *self._cutoff, steps)
        return tuple(placed(cut, steps) for cut in cuts)

    def _defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Some pipelines have an empty negative prompt as a default, and refuse it beside its embeddings."""
        takes = inspect.signature(type(self._pipe).__call__).parameters
        both = options.get("negative_prompt_embeds") is not None and "negative_prompt" in takes
        return {"negative_prompt": None} if both else {}

    def _refuse(self, prompts: CallPrompts) -> None:
        """SelectError for a scheduler that is not known, or a probe that does not fit the pipeline or the prompts."""
        name = name_of(self._pipe.scheduler)
        if name not in SCHEDULERS:
            raise SelectError(f"selection is not known to be safe with {name}: {nearest(name, SCHEDULERS)}")
        for probe in self.probes:
            check_probe(probe, self._family)
            if probe.spec.previews and not prompts.texts:
                raise SelectError(
                    f"the probe reads {', '.join(probe.spec.scalars)}, scores that pictures get for a prompt, and "
                    "prompt_embeds are no text: give prompts"
                )


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
    if accept:
        raise SelectError(f"accept={accept} is no argument any more: {FORMER['select.accept']}")
    if not probes:
        raise SelectError("there is no probe to ask: give one, or the folder of its cell")
    if schedule is None:
        if probes > 1:
            raise SelectError(
                f"there are {probes} probes and one cut: give a schedule with a cut for each, or one probe"
            )
    elif cutoff != (None, None):
        raise SelectError(
            f"cutoff_step_index={cutoff[0]}, cutoff_step_ratio={cutoff[1]} and a schedule both say when to choose: "
            "give one of them"
        )
