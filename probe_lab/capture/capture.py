"""``Capture``: a context manager around a stock diffusers pipeline that keeps tensors of chosen steps and taps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import is_compiled_module
from torch import Tensor, nn

from probe_lab.backbones.families import family_of
from probe_lab.backbones.schedulers import clipped, predicted_x0
from probe_lab.backbones.token_grid import Arguments, folded
from probe_lab.capture.call import PipelineCall
from probe_lab.capture.listen import Undo, after_module
from probe_lab.capture.lookahead import Lookahead
from probe_lab.capture.readers import LayerReader, MeanOfLayers, TokenLayout, image_output
from probe_lab.capture.stateful import kept_between_steps
from probe_lab.errors import CaptureError, nearest
from probe_lab.taps import Tap, TapKind

Normalize = Literal["all", "text"]


class Capture:
    """Keep the tensors of ``taps`` at ``steps`` while ``pipe`` runs; the pipeline and its images stay as they are.

    >>> with Capture(pipe, taps=[Tap("up_blocks.1.attentions.0", "attention")], steps=[5]) as capture:
    ...     images = pipe(prompts, num_images_per_prompt=5).images
    >>> capture[5, "up_blocks.1.attentions.0", "attention"]   # [len(prompts) * 5, tokens, H, W]

    Rows are in the pipeline's image order and are those of the prompt, not of the guidance; those of images that a
    selection inside has pruned before the step are NaN. ``steps`` are 1-based. When the pipeline runs again inside the
    same ``with``, its tensors replace the earlier ones. What others do meanwhile with the parts of the pipeline, a
    callback or another pipeline in this thread or another one, is not captured. ``token_mask`` is bool
    [rows, tokens], False for padding, whose attention maps are zero; it is None when nothing tells the two apart
    (prompt embeddings instead of prompts, or in their place from some step on). Tensors lie on the CPU, in the dtype of
    the model (attention: float32).

    Args:
        taps: a tap, its text, a pattern (``up_blocks.*/attention``) or ``paper``, the set that the papers read.
        normalize: attention over ``all`` keys, or divided by its sum over the real tokens of the ``text``.
        tokens: length of the token axis: longer maps are cut, shorter ones filled with zeros; 0 leaves it.
        size: longest side of maps and activations: larger ones are averaged down to it; 0 leaves it.

    Raises:
        CaptureError: an unknown tap or pipeline class; a compiled denoiser; a tap inside a denoiser that keeps
            something from step to step (``enable_cache``), or one that asks it again; a step beyond the schedule (both
            before the first denoiser call); attention that does not pass through ``F.scaled_dot_product_attention``; a
            module that does not run, or runs twice per step. A call that ends early keeps the steps that it made.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        taps: Iterable[Tap | str],
        steps: Iterable[int],
        *,
        normalize: Normalize = "all",
        tokens: int = 0,
        size: int = 0,
    ) -> None:
        self._pipe = pipe
        self._family = family_of(pipe)
        self._denoiser = self._family.denoiser_of(pipe)
        _refuse_compiled(self._denoiser)
        self.taps = tuple(self._family.choose(pipe, [str(tap) for tap in taps]))
        self.steps = tuple(sorted(set(steps)))
        self.token_mask: Tensor | None = None
        self._mask: Tensor | None = None
        self._normalize = normalize
        self._length = tokens
        self._size = size
        self._tensors: dict[tuple[int, Tap], Tensor] = {}
        self._tokens: TokenLayout | None = None
        self._ahead: Lookahead | None = None
        self._recording = False
        self._means: list[MeanOfLayers] = []
        self._readers: list[LayerReader] = []
        self._stack: ExitStack | None = None
        self._call = PipelineCall(
            pipe,
            self._family,
            on_start=self._start,
            before_denoiser=self._before_denoiser,
            after_denoiser=self._after_denoiser,
            before_step=self._before_step,
            on_end=self._end,
        )
        self._refuse_state()
        if not self.steps or self.steps[0] < 1:
            raise CaptureError(f"the steps to capture are {list(self.steps)}: name at least one, 1 is the first call")
        modules = dict(self._denoiser.named_modules())
        for tap in self.taps:
            self._check(tap, modules.get(tap.module))

    def __getitem__(self, key: tuple[int, str, TapKind] | tuple[int, Tap]) -> Tensor:
        tap = key[1] if isinstance(key[1], Tap) else Tap(*key[1:])
        if (key[0], tap) not in self._tensors:
            there = ", ".join(f"{step}/{kept}" for step, kept in self._tensors) or "nothing"
            raise CaptureError(f"'{key[0]}/{tap}' was not captured: there is {there}")
        return self._tensors[key[0], tap]

    def items(self) -> Sequence[tuple[tuple[int, Tap], Tensor]]:
        """((step, tap), tensor) of all that the last pipeline call left."""
        return list(self._tensors.items())

    def look_ahead(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, images: Tensor) -> Tensor:
        """The lookahead of these images of the call, int64, from a captured step whose scheduler is about to be given
        the tensors: [n, C, h, w], one more denoiser call for each."""
        assert self._ahead is not None
        assert self._tokens is not None
        here = images.to(sample.device)
        clean = self._ahead(model_output[here], timestep, sample[here], torch.searchsorted(self._call.kept, images))
        return self._family.unpack(clean, self._tokens.grid)

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise CaptureError("this Capture is entered already: make another one")
        with ExitStack() as stack:  # undone at once if a hook cannot be placed
            self._call.watch(stack)
            for undo in [*self._read_attention(), *self._read_activations()]:
                stack.callback(undo)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stack is not None
        self._stack.close()
        self._stack = None

    def _refuse_state(self) -> None:
        """Refuse taps inside a denoiser that leaves parts of a step out, and a further call of it."""
        within = next((tap for tap in self.taps if tap.module or tap.kind == "lookahead"), None)
        if within is not None and (kept := kept_between_steps(self._denoiser)):
            raise CaptureError(
                f"'{within}' cannot be captured, the denoiser {kept}, so a step need not run all of it: switch that "
                "off (disable_cache()), or tap 'latent' and 'x0' only"
            )

    def _check(self, tap: Tap, module: nn.Module | None) -> None:
        """Refuse a tap that the denoiser lacks."""
        if not tap.module:
            return
        # A list of blocks is never called itself.
        if (
            module is None
            or isinstance(module, nn.ModuleList)
            or (tap.kind == "attention" and not self._family.text_layers(module, tap.module))
        ):
            allowed = [str(known) for known in self._family.taps(self._pipe)]
            raise CaptureError(f"the backbone has no tap '{tap}': {nearest(str(tap), allowed)}")

    # What happens during a pipeline call, in its order.

    def _start(self) -> None:
        self._tensors = {}
        self.token_mask = None
        self._refuse_state()
        if self.steps[-1] > self._call.steps:
            raise CaptureError(
                f"step {self.steps[-1]} is beyond the schedule: this call has {self._call.steps} steps, 1 is the first"
            )

    def _before_denoiser(self, arguments: Arguments) -> None:
        self._recording = self._call.step in self.steps
        if self._call.step == 1 or self._recording:
            self._mask = self._call.token_mask(arguments)
            if self._mask is None:
                self.token_mask = None
            elif len(self._mask) == self._call.images:
                self.token_mask = self._fitted(self._mask)
        self._ahead = None
        if self._recording:
            self._tokens = TokenLayout.of(self._family, self._denoiser, arguments)
            self._ahead = Lookahead(self._denoiser, self._pipe.scheduler, arguments, self._call.rows)

    def _after_denoiser(self, succeeded: bool) -> None:
        if not self._recording:
            return
        self._recording = False
        if not succeeded:
            return
        for mean in self._means:
            maps = mean.take()
            if maps is not None:
                self._keep_attention(mean.tap, maps)
        for tap in self.taps:
            if tap.module and (self._call.step, tap) not in self._tensors:
                raise CaptureError(f"'{tap}' was never reached: its module does not run in this pipeline call")

    def _before_step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> None:
        if self._call.step not in self.steps:
            return
        assert self._tokens is not None
        kept = self._call.kept
        own, latent = (rows[kept.to(rows.device)] for rows in (model_output, sample))
        for tap in self.taps:
            if tap.kind == "latent":
                self._keep(tap, self._family.unpack(latent, self._tokens.grid))
            elif tap.kind == "x0":
                clean = predicted_x0(self._pipe.scheduler, own, timestep, latent)
                clean = clipped(self._pipe.scheduler, clean)
                self._keep(tap, self._family.unpack(clean, self._tokens.grid))
            elif tap.kind == "lookahead":
                self._keep(tap, self.look_ahead(model_output, timestep, sample, kept))

    def _end(self) -> None:
        """Let go of the call's tensors, and of what an interruption may have left open."""
        self._recording = False
        self._ahead = None
        for reader in self._readers:
            reader.leave()
        for mean in self._means:
            mean.take()

    def _read_attention(self) -> list[Undo]:
        """One reader per layer, whose map goes to every tap that holds the layer."""
        taps_of: defaultdict[str, list[MeanOfLayers]] = defaultdict(list)
        self._means = []
        for tap in self.taps:
            if tap.kind != "attention":
                continue
            layers = self._family.text_layers(self._denoiser.get_submodule(tap.module), tap.module)
            self._means.append(MeanOfLayers(tap, len(layers)))
            for path in layers:
                taps_of[path].append(self._means[-1])
        self._readers = []
        for path, means in taps_of.items():

            def receive(maps: Tensor, means: list[MeanOfLayers] = means) -> None:
                for mean in means:
                    mean.add(maps)

            layer = self._denoiser.get_submodule(path)
            self._readers.append(LayerReader(path, layer, self._call, self._sequence, receive))
        return [undo for reader in self._readers for undo in reader.hook()]

    def _sequence(self) -> TokenLayout | None:
        return self._tokens if self._recording and self._call.is_reading else None

    def _read_activations(self) -> list[Undo]:
        def reader(tap: Tap) -> Undo:
            is_block = self._family.is_block(tap.module)

            def receive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                sequence = self._sequence()
                if sequence is not None and output is not None:
                    self._keep_activation(tap, image_output(output, sequence, is_block), sequence)

            return after_module(self._denoiser.get_submodule(tap.module), receive)

        return [reader(tap) for tap in self.taps if tap.kind == "activation"]

    def _keep_activation(self, tap: Tap, tensor: Tensor, sequence: TokenLayout) -> None:
        if (self._call.step, tap) in self._tensors:
            raise CaptureError(f"'{tap}' runs twice per step: tap a module that runs once")
        if tensor.dim() not in (3, 4):
            raise CaptureError(f"'{tap}' gives {tuple(tensor.shape)}: an activation is [n, C, H, W] or [n, tokens, C]")
        tensor = self._call.conditional(tensor)
        image = folded(tensor.transpose(1, 2), sequence.grid) if tensor.dim() == 3 else tensor
        self._keep(tap, self._averaged(image))

    def _keep_attention(self, tap: Tap, maps: Tensor) -> None:
        assert self._tokens is not None
        if self._mask is not None:
            maps = maps * self._mask.to(maps.device)[:, :, None]
        if self._normalize == "text":
            maps = maps / maps.sum(1, keepdim=True).clamp_min(1e-12)
        self._keep(tap, self._averaged(folded(self._fitted(maps), self._tokens.grid)))

    def _fitted(self, tokens: Tensor) -> Tensor:
        """[n, tokens, …] cut, or filled with zeros, to the wanted number of tokens."""
        if not self._length:
            return tokens
        behind = (0, 0) * (tokens.dim() - 2)
        return F.pad(tokens, (*behind, 0, self._length - tokens.shape[1]))

    def _averaged(self, image: Tensor) -> Tensor:
        """Not larger than the wanted size: means over areas, which overlap where the sides do not divide."""
        height, width = image.shape[-2:]
        longest = max(height, width)
        if not self._size or longest <= self._size:
            return image
        smaller = [max(1, round(side * self._size / longest)) for side in (height, width)]
        return F.adaptive_avg_pool2d(image.float(), (smaller[0], smaller[1])).to(image.dtype)

    def _keep(self, tap: Tap, tensor: Tensor) -> None:
        # A copy: the pipeline may go on to write into its tensor, and a view would keep the whole batch alive.
        self._tensors[self._call.step, tap] = self._call.of_all(tensor.detach().to("cpu", copy=True))


def _refuse_compiled(denoiser: nn.Module) -> None:
    """Compiled code runs no hook and hides its attention."""
    for path, module in denoiser.named_modules():
        if is_compiled_module(module) or getattr(module, "_compiled_call_impl", None) is not None:
            where = f"its module '{path}' is" if path else "it is"
            raise CaptureError(f"the denoiser cannot be read, {where} compiled: capture with the uncompiled model")
