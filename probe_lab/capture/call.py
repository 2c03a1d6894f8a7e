"""Follow one call of a stock diffusers pipeline: which step it is at, whose rows a batch holds, what the text is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from probe_lab.capture.family import Family
from probe_lab.capture.layout import Arguments
from probe_lab.capture.listen import after_method, after_module, before_method, before_module
from probe_lab.errors import CaptureError


@dataclass
class _State:
    """What is known of the call in progress. ``encoded``: per text encoder, token ids and attention mask.

    Without ``running`` whatever happens belongs to another pipeline that shares parts with this one.
    """

    running: bool = False
    rows: int = 0
    steps: int = 0
    step: int = 0
    in_step: bool = False
    has_prompt: bool | None = None
    encoded: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)


class PipelineCall:
    """Follows the calls of ``pipe`` while it is watched, and reports what happens.

    A *step* begins with a denoiser call and ends in the scheduler. A pipeline may call the denoiser again within a
    step, without the prompt (guidance as a call of its own): such calls are not reported.

    Args:
        on_begin: the pipeline was called; nothing has happened yet.
        on_start: the schedule is known; nothing has been denoised yet.
        before_denoiser: the arguments of the conditional denoiser call, by name.
        after_denoiser: whether it succeeded.
        before_step: what the scheduler is about to be given (model output, timestep, sample).
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        *,
        on_begin: Callable[[], None],
        on_start: Callable[[], None],
        before_denoiser: Callable[[Arguments], None],
        after_denoiser: Callable[[bool], None],
        before_step: Callable[[Tensor, Tensor | float, Tensor], None],
    ) -> None:
        self._pipe = pipe
        self._family = family
        self._denoiser = family.denoiser_of(pipe)
        self._signature = inspect.signature(self._denoiser.forward)
        self._on_begin = on_begin
        self._on_start = on_start
        self._before_denoiser = before_denoiser
        self._after_denoiser = after_denoiser
        self._before_step = before_step
        self._state = _State()
        self._reporting = False

    @property
    def step(self) -> int:
        """The 1-based step in progress, 0 before the first."""
        return self._state.step

    @property
    def steps(self) -> int:
        """Steps of the schedule."""
        return self._state.steps

    @property
    def rows(self) -> int:
        """Images that are denoised: prompts × images per prompt, until ``narrow``."""
        return self._state.rows

    def narrow(self, rows: int) -> None:
        """From the next denoiser call on it is given only so many rows."""
        self._state.rows = rows

    def watch(self, stack: ExitStack) -> None:
        """Listen until ``stack`` is closed."""
        pipe, scheduler = self._pipe, self._pipe.scheduler
        stack.callback(before_method(pipe, "check_inputs", self._begin))
        stack.callback(before_method(pipe, "encode_prompt", self._encode_prompt))
        stack.callback(before_method(pipe, "prepare_latents", self._prepare_latents))
        stack.callback(after_method(scheduler, "set_timesteps", self._set_timesteps))
        stack.callback(before_method(scheduler, "step", self._step))
        for text in self._family.texts:
            encoder = getattr(pipe, text.encoder)
            if encoder is not None:
                stack.callback(before_module(encoder, self._encoding(text.encoder)))
        stack.callback(before_module(self._denoiser, self._denoise))
        stack.callback(after_module(self._denoiser, self._denoised))

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
        """True for the real text tokens of each image: bool [rows, tokens]; None if nothing tells them from padding."""
        tokens = arguments["encoder_hidden_states"].shape[1]
        if self._family.mask:
            given = arguments.get(self._family.mask)
            if given is None:  # a pipeline that drops a mask of ones
                return torch.ones(self.rows, tokens, dtype=torch.bool)
            return self.conditional(given).bool().cpu()
        if not self._state.has_prompt:
            return None
        parts = [self._mask_of(text.encoder, text.tokenizer) for text in self._family.texts]
        mask = torch.cat([part for part in parts if part is not None], 1).cpu()
        mask = torch.cat(
            [mask, mask.new_zeros(len(mask), tokens - mask.shape[1])], 1
        )  # of an encoder that is not there
        return mask.repeat_interleave(self.rows // len(mask), 0)

    def _mask_of(self, encoder: str, tokenizer: str) -> Tensor | None:
        if encoder not in self._state.encoded:
            return None
        ids, mask = self._state.encoded[encoder]
        return until_end(ids, getattr(self._pipe, tokenizer).eos_token_id) if mask is None else mask.bool()

    # What the pipeline does, in its order; the latents may be prepared before or after the timesteps are set.

    def _begin(self, *args: Any, **kwargs: Any) -> None:
        """Every pipeline first checks what it was called with."""
        self._state = _State(running=True)
        self._reporting = False
        self._on_begin()

    def _encode_prompt(self, *args: Any, **kwargs: Any) -> None:
        if self._state.has_prompt is None:  # what comes after the prompt is the negative prompt
            self._state.has_prompt = (args[0] if args else kwargs.get("prompt")) is not None

    def _encoding(self, encoder: str) -> Callable[..., None]:
        def receive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids = args[0] if args else kwargs["input_ids"]
            if self._state.running and self._state.has_prompt:
                self._state.encoded.setdefault(encoder, (ids, kwargs.get("attention_mask")))

        return receive

    def _prepare_latents(self, *args: Any, **kwargs: Any) -> None:
        self._state.rows = args[0] if args else kwargs["batch_size"]

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.running or self._state.steps:  # of another pipeline with the same scheduler
            self._state = _State()
            return
        self._state.steps = len(self._pipe.scheduler.timesteps)
        self._on_start()

    def _denoise(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._state.running or self._state.in_step:
            return
        if not self._state.steps:
            raise CaptureError("the scheduler was exchanged inside the capture: exchange it before")
        self._state.step += 1
        self._state.in_step = self._reporting = True
        self._before_denoiser(self._signature.bind(*args, **kwargs).arguments)

    def _denoised(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        if self._reporting:
            self._reporting = False
            self._after_denoiser(output is not None)

    def _step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._state.running:
            return
        self._state.in_step = False
        self._before_step(model_output, timestep, sample)


def until_end(ids: Tensor, end: int) -> Tensor:
    """True for the tokens up to and with the first end-of-text token: bool [prompts, tokens].

    CLIP pads with that token, and pipelines give T5 no attention mask, so it is told from the ids.
    """
    ends = (ids == end).long()
    return (ends.cumsum(1) - ends) == 0
