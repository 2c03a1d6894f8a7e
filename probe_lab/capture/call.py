"""One call of a stock diffusers pipeline: which step it is at, whose rows a batch holds, what the text is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.backbones.family import Family
from probe_lab.backbones.token_grid import Arguments
from probe_lab.capture.batch_rows import spread
from probe_lab.capture.follow import CallState, Follower, version_of
from probe_lab.errors import CaptureError


def _nothing(*args: Any) -> None:
    pass


class PipelineCall:
    """Reports what happens in the calls of ``pipe`` while it watches.

    A *step* begins with a denoiser call and ends in the scheduler. A pipeline may call the denoiser again within a
    step, without the prompt (guidance as a call of its own): such calls are not reported. What others do with the parts
    of the pipeline is not either, see ``Follower``; nor is a call of the pipeline within a call of it.

    Args:
        on_start: the schedule is known; nothing has been denoised yet.
        before_denoiser: the arguments of the conditional denoiser call, by name, of the rows that are left.
        after_denoiser: whether it succeeded.
        before_step: what the scheduler is about to be given (model output, timestep, sample), always of all rows.
        on_end: the pipeline has returned, or raised.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        *,
        on_start: Callable[[], None] = _nothing,
        before_denoiser: Callable[[Arguments], None] = _nothing,
        after_denoiser: Callable[[bool], None] = _nothing,
        before_step: Callable[[Tensor, Tensor | float, Tensor], None] = _nothing,
        on_end: Callable[[], None] = _nothing,
    ) -> None:
        self._pipe = pipe
        self._family = family
        self.start = on_start
        self.before_denoiser = before_denoiser
        self.after_denoiser = after_denoiser
        self.before_step = before_step
        self.end = on_end
        self._follower = Follower.of(pipe, family)
        self._state = CallState(thread=0)

    @property
    def step(self) -> int:
        """The 1-based step in progress, 0 before the first."""
        return self._state.step

    @property
    def steps(self) -> int:
        """Steps of the schedule."""
        return self._state.steps

    @property
    def images(self) -> int:
        """Images of the call: prompts × images per prompt."""
        return self._state.images

    @property
    def rows(self) -> int:
        """Images that are denoised: prompts × images per prompt, until ``keep``."""
        return self._state.images if self._state.kept is None else len(self._state.kept)

    @property
    def kept(self) -> Tensor:
        """Which of the call's images are still denoised, int64, rising."""
        return torch.arange(self._state.images, device="cpu") if self._state.kept is None else self._state.kept

    def keep(self, rows: Tensor) -> None:
        """From the next denoiser call on it is given only these images of the call, in the call's order."""
        self._state.kept = rows.sort().values

    def of_all(self, tensor: Tensor) -> Tensor:
        """A floating-point tensor of the images that are left as one of all images of the call, NaN for the others."""
        kept = self._state.kept
        return tensor if kept is None else spread(tensor, kept, self._state.images, torch.nan)

    @property
    def is_own(self) -> bool:
        """Whether what is called here and now is called by the pipeline itself."""
        return self._follower.is_own

    @property
    def is_reading(self) -> bool:
        """Whether the denoiser call in progress, here in this thread, is the pipeline's own."""
        return self._follower.is_reading

    def around_own(self, stand_in: Callable[..., Any]) -> Callable[..., Any]:
        """For ``around_method`` of a part of the pipeline: ``stand_in`` for those calls that the pipeline makes."""
        return self._follower.around_own(stand_in)

    def watch(self, stack: ExitStack) -> None:
        """Listen until ``stack`` is closed."""
        self._follower = Follower.of(self._pipe, self._family)
        stack.callback(self._follower.tell(self))

    def begin(self, state: CallState) -> None:
        self._state = state

    def conditional(self, batch: Tensor) -> Tensor:
        """The rows with the prompt, of a batch that may be [unconditional…, conditional…].

        Raises:
            CaptureError: a batch that is neither one nor two times the images of the call.
        """
        if len(batch) == self.rows:
            return batch
        if len(batch) == 2 * self.rows:
            return batch.chunk(2)[1]
        raise CaptureError(
            f"the denoiser was given {len(batch)} rows for {self.rows} images: known are one row per image, or two "
            "(without and with the prompt); switch further guidance off"
        )

    def token_mask(self, arguments: Arguments) -> Tensor | None:
        """True for the real text tokens of each image that is left: bool [rows, tokens]; None if nothing tells them
        from padding: prompt embeddings were given instead of prompts, or put in their place during the call."""
        tokens = arguments["encoder_hidden_states"].shape[1]
        if self._family.mask:
            given = arguments.get(self._family.mask)
            if given is None:  # a pipeline that drops a mask of ones
                return torch.ones(self.rows, tokens, dtype=torch.bool, device="cpu")
            return self.conditional(given).bool().cpu()
        if not self._state.has_prompt or not self.has_first_text(arguments):
            return None
        parts: list[Tensor] = []
        for text in self._family.texts:
            part = self._mask_of(text.encoder, text.tokenizer)
            if part is not None and text.beside and parts:
                parts[-1] = parts[-1] | part
            elif part is not None:
                parts.append(part)
        mask = torch.cat(parts, 1)
        mask = torch.cat(
            [mask, mask.new_zeros(len(mask), tokens - mask.shape[1])], 1
        )  # of an encoder that is not there
        return mask.repeat_interleave(self._state.images // len(mask), 0)[self.kept]

    def has_first_text(self, arguments: Arguments) -> bool:
        """Whether the denoiser is given the text of its first call, and not what a callback put in its place."""
        first = self._state.text
        if first is None or version_of(first) != self._state.text_version:
            return False
        now = self.conditional(arguments["encoder_hidden_states"])
        if now is first:
            return True
        whole = first[len(first) - self._state.images :]
        return torch.equal(now, whole[self.kept.to(whole.device)])

    def _mask_of(self, encoder: str, tokenizer: str) -> Tensor | None:
        if encoder not in self._state.encoded:
            return None
        ids, mask = self._state.encoded[encoder]
        mask = until_end(ids, getattr(self._pipe, tokenizer).eos_token_id) if mask is None else mask.bool()
        return mask.cpu()


def until_end(ids: Tensor, end: int) -> Tensor:
    """True for the tokens up to and with the first end-of-text token: bool [prompts, tokens].

    CLIP pads with that token, and pipelines give T5 no attention mask, so it is told from the ids.
    """
    ends = (ids == end).long()
    return (ends.cumsum(1) - ends) == 0
