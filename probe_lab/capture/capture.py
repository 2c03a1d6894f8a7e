"""``Capture``: a context manager around a stock diffusers pipeline that keeps tensors of chosen steps and taps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from probe_lab.capture.attention import AttentionReader, attention_map
from probe_lab.capture.backbones import family_of
from probe_lab.capture.taps import Kind, Tap
from probe_lab.capture.x0 import predicted_x0
from probe_lab.errors import CaptureError, nearest


@dataclass
class _Call:
    """What is known of the pipeline call in progress."""

    step: int = 0
    steps: int = 0
    height: int = 0
    width: int = 0
    has_prompt: bool = False
    input_ids: Tensor | None = None


class Capture:
    """Keep the tensors of ``taps`` at ``steps`` while ``pipe`` runs; the pipeline and its images stay as they are.

    >>> with Capture(pipe, taps=[Tap("up_blocks.1.attentions.0", "attention")], steps=[5]) as capture:
    ...     images = pipe(prompts, num_images_per_prompt=5).images
    >>> capture[5, "up_blocks.1.attentions.0", "attention"]   # [len(prompts) * 5, tokens, H, W]

    Rows are in the pipeline's image order; with guidance, they are the conditional half of the batch. ``steps`` are
    1-based denoiser calls. When the pipeline runs again inside the same ``with``, its tensors replace the earlier ones.
    ``token_mask`` is bool [rows, tokens], False for padding, whose attention maps are zero; it is None when the
    pipeline was given prompt embeddings instead of prompts. Tensors lie on the CPU, in the dtype of the computation
    (attention: float32).

    Raises:
        CaptureError: an unknown tap or pipeline class; a step beyond the schedule (before the first denoiser call);
            attention that does not pass through ``F.scaled_dot_product_attention``.
    """

    def __init__(self, pipe: DiffusionPipeline, taps: Iterable[Tap | str], steps: Iterable[int]) -> None:
        self.taps = tuple(tap if isinstance(tap, Tap) else Tap.parse(tap) for tap in taps)
        self.steps = tuple(sorted(set(steps)))
        self.token_mask: Tensor | None = None
        self._pipe = pipe
        self._family = family_of(pipe)
        self._denoiser = self._family.denoiser_of(pipe)
        self._call = _Call()
        self._tensors: dict[tuple[int, Tap], Tensor] = {}
        self._stack = ExitStack()
        if not self.steps or self.steps[0] < 1:
            raise CaptureError(f"the steps to capture are {list(self.steps)}: name at least one, 1 is the first call")
        for tap in self.taps:
            self._check(tap)

    def __getitem__(self, key: tuple[int, str, Kind] | tuple[int, Tap]) -> Tensor:
        tap = key[1] if isinstance(key[1], Tap) else Tap(*key[1:])
        if (key[0], tap) not in self._tensors:
            there = ", ".join(f"{step}/{kept}" for step, kept in self._tensors) or "nothing"
            raise CaptureError(f"'{key[0]}/{tap}' was not captured: there is {there}")
        return self._tensors[key[0], tap]

    def items(self) -> Sequence[tuple[tuple[int, Tap], Tensor]]:
        """((step, tap), tensor) of all that the last pipeline call left."""
        return list(self._tensors.items())

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # undone at once if a hook cannot be placed
            stack.callback(_hook(self._denoiser, self._before_denoiser))
            stack.callback(_hook(getattr(self._pipe, self._family.text_encoder), self._before_text_encoder))
            stack.callback(_wrap(self._pipe, "encode_prompt", self._before_encode_prompt, before=True))
            scheduler = self._pipe.scheduler
            stack.callback(_wrap(scheduler, "set_timesteps", self._after_set_timesteps, before=False))
            stack.callback(_wrap(scheduler, "step", self._before_scheduler_step, before=True))
            for tap in self.taps:
                if tap.kind == "attention":
                    self._read_attention(stack, tap)
                elif tap.kind == "activation":
                    self._read_activation(stack, tap)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def _wanted(self) -> bool:
        return self._call.step in self.steps

    def _check(self, tap: Tap) -> None:
        """Refuse a tap that the denoiser lacks."""
        if not tap.module:
            return
        module = dict(self._denoiser.named_modules()).get(tap.module)
        # A list of blocks is never called itself.
        if (
            module is None
            or isinstance(module, nn.ModuleList)
            or (tap.kind == "attention" and not self._family.cross_attentions(module))
        ):
            allowed = [str(known) for known in self._family.taps(self._pipe)]
            raise CaptureError(f"the backbone has no tap '{tap}': {nearest(str(tap), allowed)}")

    def _conditional(self, batch: Tensor) -> Tensor:
        """The conditional rows of a [unconditional…, conditional…] batch, or all of it without guidance."""
        return batch.chunk(2)[1] if self._pipe.do_classifier_free_guidance else batch

    def _fold(self, tokens: int) -> tuple[int, int]:
        """Height and width of a token grid, from the latent's: each level halves both, rounding up."""
        height, width = self._call.height, self._call.width
        while height * width > tokens:
            height, width = -(-height // 2), -(-width // 2)
        if height * width != tokens:
            raise CaptureError(
                f"{tokens} tokens do not fold back to a latent of {self._call.height}×{self._call.width}: "
                "this block's grid is no halving of it"
            )
        return height, width

    # What the hooks do, in the order in which a pipeline call reaches them.

    def _before_encode_prompt(self, *args: Any, **kwargs: Any) -> None:
        """A pipeline call begins, here or after a manual ``encode_prompt``; with embeddings there is no prompt."""
        self._call = _Call(has_prompt=(args[0] if args else kwargs.get("prompt")) is not None)

    def _before_text_encoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._call.has_prompt and self._call.input_ids is None:  # the second text is the negative prompt
            self._call.input_ids = args[0] if args else kwargs["input_ids"]

    def _after_set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self._call = _Call(steps=len(self._pipe.scheduler.timesteps), input_ids=self._call.input_ids)
        self._tensors = {}
        self.token_mask = None
        if self.steps[-1] > self._call.steps:
            raise CaptureError(
                f"step {self.steps[-1]} is beyond the schedule: this call has {self._call.steps} steps, 1 is the first"
            )

    def _before_denoiser(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self._call.step += 1
        self._call.height, self._call.width = sample.shape[-2:]
        if self._call.step == 1 and self._call.input_ids is not None:
            mask = self._family.token_mask(self._pipe, self._call.input_ids)
            rows = len(self._conditional(sample))
            self.token_mask = mask.repeat_interleave(rows // len(mask), 0).cpu()

    def _before_scheduler_step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        if not self._wanted:
            return
        for tap in self.taps:
            if tap.kind == "latent":
                self._keep(tap, sample)
            elif tap.kind == "x0":
                self._keep(tap, predicted_x0(self._pipe.scheduler, model_output, timestep, sample))

    def _read_activation(self, stack: ExitStack, tap: Tap) -> None:
        def receive(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not self._wanted:
                return
            tensor = output if isinstance(output, Tensor) else output[0]
            if tensor.dim() not in (3, 4):
                raise CaptureError(
                    f"'{tap}' gives {tuple(tensor.shape)}: an activation is [n, C, H, W] or [n, tokens, C]"
                )
            tensor = self._conditional(tensor)
            if tensor.dim() == 3:
                tensor = tensor.transpose(1, 2).unflatten(2, self._fold(tensor.shape[1]))
            self._keep(tap, tensor)

        stack.callback(self._denoiser.get_submodule(tap.module).register_forward_hook(receive).remove)

    def _read_attention(self, stack: ExitStack, tap: Tap) -> None:
        layers = self._family.cross_attentions(self._denoiser.get_submodule(tap.module))
        maps: list[Tensor] = []

        def receive(query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None) -> None:
            part = None if mask is None else self._conditional(mask)
            maps.append(attention_map(self._conditional(query), self._conditional(key), scale=scale, mask=part))

        reader = AttentionReader(receive)
        entered: list[Attention] = []

        def before(module: Attention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._wanted:
                reader.__enter__()
                entered.append(module)

        def after(module: Attention, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            if not entered:
                return
            reader.__exit__(None, None, None)
            entered.pop()
            if output is None:  # the layer raised: its own error is on the way up
                maps.clear()
            elif not maps:
                raise CaptureError(
                    f"'{tap}' does not call F.scaled_dot_product_attention, so its attention cannot be read: "
                    "use the default attention backend and an uncompiled denoiser"
                )
            elif len({part.shape for part in maps}) > 1:
                maps.clear()
                raise CaptureError(f"'{tap}' holds attention of several sizes: tap its blocks one by one")
            elif module is layers[-1]:
                mean = torch.stack(maps).mean(0) if len(maps) > 1 else maps[0]
                maps.clear()
                self._keep(tap, self._masked(mean.unflatten(2, self._fold(mean.shape[2]))))

        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            # always_call: the mode must go also when the layer raises.
            stack.callback(layer.register_forward_hook(after, with_kwargs=True, always_call=True).remove)

    def _masked(self, maps: Tensor) -> Tensor:
        if self.token_mask is None:
            return maps
        return maps * self.token_mask.to(maps.device)[:, :, None, None]

    def _keep(self, tap: Tap, tensor: Tensor) -> None:
        # A copy: the pipeline may go on to write into its tensor, and a view would keep the whole batch alive.
        self._tensors[self._call.step, tap] = tensor.detach().to("cpu", copy=True)


def _hook(module: nn.Module, before: Callable[..., None]) -> Callable[[], None]:
    return module.register_forward_pre_hook(before, with_kwargs=True).remove


def _wrap(owner: object, name: str, extra: Callable[..., None], *, before: bool) -> Callable[[], None]:
    """Let ``owner.name`` call ``extra`` with the same arguments, before or after itself; returns the undoing."""
    original = getattr(owner, name)
    previous = vars(owner).get(name)

    @functools.wraps(original)  # pipelines inspect the signature
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if before:
            extra(*args, **kwargs)
        result = original(*args, **kwargs)
        if not before:
            extra(*args, **kwargs)
        return result

    def undo() -> None:
        if previous is None:
            delattr(owner, name)
        else:
            setattr(owner, name, previous)

    setattr(owner, name, wrapper)
    return undo
