"""One call of a pipeline in which candidates are selected."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.backbones.family import Family
from probe_lab.backbones.token_grid import Arguments
from probe_lab.cache.faults import Fault
from probe_lab.cache.layout import LOOKAHEAD, TINY
from probe_lab.capture.call import PipelineCall
from probe_lab.capture.capture import Capture
from probe_lab.capture.no_pictures import decodes_watched, finite_rows
from probe_lab.capture.stateful import kept_between_steps
from probe_lab.capture.text_embeddings import text_of
from probe_lab.data.scalars import Scalar
from probe_lab.errors import SelectError
from probe_lab.previews.decoding import Previewer
from probe_lab.probes import Inputs, Probe
from probe_lab.selection.pipeline_rows import decode_only
from probe_lab.selection.ranking import By, order, ranked
from probe_lab.selection.schedule import Cut
from probe_lab.taps import Tap

_log = logging.getLogger(__name__)


class Running:
    """Watches the call that ``run`` makes: captures at every cut, asks its probe, and narrows the rows.

    Previews that a probe reads are decoded and scored by ``preview``, of the candidates that its cut still finds.

    A candidate whose numbers at a cut are not finite, latents or what its probe reads and says of them, comes last
    there and is named in a warning.

    Afterwards ``kept`` holds, for each prompt, the rows of the call that were finished, int64, the best first;
    ``scores`` what was predicted of ``evaluators``, float32 [prompts, candidates, E], NaN for what no probe predicts;
    ``broken`` the rows that came last because they are not finite; ``faults`` what is wrong with finished images, by
    their place in the output.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        *,
        prompts: Sequence[str],
        candidates: int,
        keep: int,
        probes: Sequence[Probe],
        cuts_of: Callable[[int], tuple[Cut, ...]],
        by: By,
        evaluators: Sequence[str],
        layout: Mapping[str, Any],
        preview: Previewer,
        on_cut: Callable[[int, list[Tensor]], None],
    ) -> None:
        self._pipe, self._family = pipe, family
        self._prompts, self._candidates, self._keep, self._probes = prompts, candidates, keep, probes
        self._cuts_of, self._by, self._layout, self._on_cut = cuts_of, by, layout, on_cut
        self._preview = preview
        self._cuts: tuple[Cut, ...] = ()
        self._made = 0
        self._text: dict[str, Tensor] = {}
        rows = len(prompts) * candidates
        self._plan = PipelineCall(pipe, family, on_start=self._start)
        self._call = PipelineCall(pipe, family, before_denoiser=self._before_denoiser, before_step=self._before_step)
        # On the CPU and in float32, whatever the defaults of the process are.
        self.kept = list(torch.arange(rows, device="cpu").view(len(prompts), candidates))
        self.broken: set[int] = set()
        self.faults: dict[int, Fault] = {}
        shape = (len(prompts), candidates, len(evaluators))
        self.scores = torch.full(shape, torch.nan, dtype=torch.float32, device="cpu")
        self._evaluators = evaluators
        self._capture: Capture
        self.denoised = 0

    def run(self, options: Mapping[str, Any]) -> Any:
        """The pipeline's output, of the kept rows.

        Raises:
            SelectError: a denoiser that keeps something of all candidates from step to step, or a call that ended
                before the last cut.
        """
        self._refuse_state()
        taps = dict.fromkeys(tap for probe in self._probes for tap in _read(probe))
        # Which steps are read is known once the pipeline has set its schedule.
        capture = Capture(self._pipe, taps or ["latent"], [1], **self._layout)
        with ExitStack() as stack:
            self._plan.watch(stack)
            self._capture = stack.enter_context(capture)
            self._call.watch(stack)
            decode_only(self._pipe, self._call, lambda: torch.cat(self.kept), stack)
            decodes = stack.enter_context(decodes_watched(self._pipe))  # last: of the kept rows
            output = self._pipe(**options)
        if self._made < len(self._cuts) or not self._cuts:
            raise SelectError(
                f"the call ended after step {self._call.step} of {self._call.steps}, before the cut at step "
                f"{self._cuts[-1].step if self._cuts else 1}, so nothing was chosen: let it run on, and call the "
                "pipeline in one thread at a time"
            )
        if options.get("output_type") == "latent":
            output = self._only_kept(output)
        self.faults = decodes.faults(output)
        return output

    @property
    def steps(self) -> int:
        """Steps that the call made. That may be fewer than the schedule has: a callback stopped it, or it was asked
        for a part of them (``denoising_end``)."""
        return self._call.step

    def _start(self) -> None:
        """The scheduler has its timesteps, however many were asked for."""
        self._cuts = self._cuts_of(self._plan.steps)
        self._capture.steps = tuple(sorted({cut.step for cut in self._cuts}))

    def _refuse_state(self) -> None:
        if kept := kept_between_steps(self._family.denoiser_of(self._pipe)):
            raise SelectError(
                f"the denoiser {kept}, which would mix up the candidates once some of them are pruned: switch that off "
                "(disable_cache()) for a selection"
            )

    def _only_kept(self, output: Any) -> Any:
        """Latents are given as the loop left them, with all rows."""
        rows = torch.cat(self.kept)
        if isinstance(output, tuple):
            return (output[0][rows.to(output[0].device)], *output[1:])
        output.images = output.images[rows.to(output.images.device)]
        return output

    def _before_denoiser(self, arguments: Arguments) -> None:
        self.denoised += self._call.rows
        reading = [cut.probe.spec for cut in self._cuts if cut.probe.spec.needs_text]
        if self._call.step == 1 and reading:
            text = text_of(self._call, self._family, arguments, self._layout["tokens"])
            self._text = {name: rows[:: self._candidates] for name, rows in text.items()}
            pooled = self._family.pooled(arguments) is not None
            if "token_mask" not in text and (not pooled or any(spec.needs_tokens for spec in reading)):
                raise SelectError(
                    "the probe reads the prompt, and nothing tells the text of prompt embeddings from their padding: "
                    "give prompts, or a probe with probe.text=none"
                )
        here = [cut.probe.spec for cut in self._cuts if cut.step == self._call.step]
        if any(spec.needs_text for spec in here) and not self._call.has_first_text(arguments):
            raise SelectError(
                f"the prompt embeddings were replaced before step {self._call.step}, where the probe reads the prompt: "
                "replace them after the cut, or use a probe with probe.text=none"
            )
        if any(spec.attention_taps for spec in here) and self._call.token_mask(arguments) is None:
            raise SelectError(
                "the probe reads attention to the prompt, without that to padding, and nothing tells the two apart in "
                "prompt embeddings: give prompts, or a probe of activations, x0 or latent"
            )

    def _before_step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> None:
        here = [cut for cut in self._cuts if cut.step == self._call.step]
        if not here:
            return
        self._made += len(here)
        finite = finite_rows(model_output) & finite_rows(sample)
        for cut in here:
            self._choose(cut, finite, lambda images: self._look_ahead(model_output, timestep, sample, images))
        self._call.keep(torch.cat(self.kept))

    def _choose(self, cut: Cut, finite: Tensor, look_ahead: Callable[[Tensor], Tensor]) -> None:
        """Ask the probe of a cut; ``finite`` says of each row of the call whether its latents are."""
        active = torch.cat(self.kept)
        inputs = self._inputs(cut, active, look_ahead)
        read = [*inputs.features.values(), *([] if inputs.scalars is None else [inputs.scalars])]
        # An infinite input is cut to the largest one that a probe knows, and would get a score like any other.
        usable = torch.stack([finite[active], *map(finite_rows, read)]).all(0)
        scores = torch.where(usable[:, None], cut.probe.predict(inputs), torch.nan)
        columns = [self._evaluators.index(name) for name in cut.probe.spec.evaluators]
        self.scores.flatten(0, 1)[active[:, None], torch.tensor(columns, device="cpu")] = scores.float()
        by_prompt = scores.split([len(rows) for rows in self.kept])
        for rows, values in zip(self.kept, by_prompt, strict=True):
            self._name_broken(cut, rows, values)
        self.kept = [
            rows[order(values, self._by, cut.probe)[: cut.keep]]
            for rows, values in zip(self.kept, by_prompt, strict=True)
        ]
        self._on_cut(cut.step, [left % self._candidates for left in self.kept])

    def _name_broken(self, cut: Cut, rows: Tensor, scores: Tensor) -> None:
        """Note which of one prompt's ``rows`` cannot be ranked. SelectError where that is all of them."""
        broken = rows[~ranked(scores, self._by, cut.probe)].tolist()
        place = int(rows[0]) // self._candidates
        prompt = self._prompts[place] or f"prompt {place}"
        if len(broken) == len(rows):
            raise SelectError(
                f"none of the {len(rows)} candidates of '{prompt}' that reach step {cut.step} has a finite score: "
                "draw in float32 or bfloat16, or ask a probe whose weights are finite"
            )
        new = [row for row in broken if row not in self.broken]
        if new:
            numbers = ", ".join(str(row % self._candidates) for row in new)
            _log.warning(
                "at step %d of '%s', the score of candidate %s is not finite: last choice", cut.step, prompt, numbers
            )
        self.broken.update(new)

    def _inputs(self, cut: Cut, rows: Tensor, look_ahead: Callable[[Tensor], Tensor]) -> Inputs:
        """What the probe of a cut reads of the candidates that are left."""
        found = {tap: self._capture[cut.step, Tap.parse(tap)][rows] for tap in _read(cut.probe)}
        prompt = rows // self._candidates
        if cut.probe.spec.looks_ahead:
            found[LOOKAHEAD] = look_ahead(rows)
        _require_shapes(cut, found)
        return Inputs(
            features={tap: found[tap].float() for tap in cut.probe.spec.taps},
            step=torch.full((len(rows),), cut.told, dtype=torch.int64, device="cpu"),
            prompt=prompt,
            text=self._text.get("embedding"),
            tokens=self._text.get("tokens"),
            token_mask=self._text.get("token_mask"),
            scalars=self._scalars(cut, found, prompt) if cut.probe.spec.scalars else None,
        )

    def _scalars(self, cut: Cut, found: Mapping[str, Tensor], prompt: Tensor) -> Tensor:
        """Scores of the decoded latents, in the order of the probe's scalars: float32 [n, S]. Each latent is decoded
        once."""
        texts = [self._prompts[place] for place in prompt.tolist()]
        asked = cut.probe.spec.previews
        columns: dict[Scalar, Tensor] = {}
        for latent in dict.fromkeys(each.latent for each in asked):
            here = [each for each in asked if each.latent == latent]
            names = [each.evaluator for each in here]
            with torch.autocast(self._pipe.device.type, enabled=False):  # as when previews were scored for training
                scores = self._preview(found[here[0].array], texts, names, tiny=latent == TINY)
            columns |= zip(here, scores.unbind(1), strict=True)
        return torch.stack([columns[each] for each in asked], 1)

    def _look_ahead(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, images: Tensor) -> Tensor:
        """The lookahead of the candidates that are left, [n, C, h, w]: one more denoiser call for each."""
        self.denoised += len(images)
        return self._capture.look_ahead(model_output, timestep, sample, images).float().cpu()


def _read(probe: Probe) -> list[str]:
    """The taps that a probe needs: its own, and what previews are decoded from. Looking ahead costs a denoiser call,
    so that is done later, for the candidates that are left."""
    read = [*probe.spec.taps, *(each.array for each in probe.spec.previews)]
    return [tap for tap in dict.fromkeys(read) if tap != LOOKAHEAD]


def _require_shapes(cut: Cut, found: Mapping[str, Tensor]) -> None:
    spec = cut.probe.spec
    for tap, shape in spec.taps.items():
        given = tuple(found[tap].shape[1:])
        if given != shape:
            trained = f"on {spec.backbone} " if spec.backbone else ""
            raise SelectError(
                f"tap '{tap}' has the shape {given} in this call and had {shape} where the probe was trained {trained}"
                "(channels or tokens, height, width): draw at the resolution of its training images, or train a probe "
                "on this backbone and resolution"
            )
