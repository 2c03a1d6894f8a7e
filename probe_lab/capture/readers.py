"""Hooks of one capture: what reads the attention of layers and the output of modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from probe_lab.backbones.family import Family, Order
from probe_lab.backbones.token_grid import Arguments, TokenGrid
from probe_lab.capture.attention_maps import EVERYTHING, AttentionCall, AttentionReader, attention_map, stand_in
from probe_lab.capture.call import PipelineCall
from probe_lab.capture.listen import Undo, after_module, before_module
from probe_lab.errors import CaptureError
from probe_lab.taps import Tap


@dataclass(frozen=True)
class TokenLayout:
    """How many image and text tokens the layers of one denoiser call attend over, and where they stand."""

    grid: TokenGrid
    text_tokens: int
    order: Order

    @classmethod
    def of(cls, family: Family, denoiser: nn.Module, arguments: Arguments) -> TokenLayout:
        return cls(family.grid(denoiser, arguments), arguments["encoder_hidden_states"].shape[1], family.order)

    @property
    def image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def keys(self) -> int:
        """Keys of a text-reading layer."""
        return self.text_tokens if self.order == "cross" else self.text_tokens + self.image_tokens

    @property
    def image(self) -> slice:
        """The image's part of a joint sequence."""
        return slice(0, self.image_tokens) if self.order == "image, text" else slice(self.text_tokens, None)

    @property
    def text(self) -> slice:
        """The text's part of a joint sequence."""
        return slice(self.image_tokens, None) if self.order == "image, text" else slice(0, self.text_tokens)


class LayerReader:
    """Reads the attention of a layer while ``current()`` gives a sequence; ``receive`` gets its map, [n, text, image].

    Raises:
        CaptureError: the layer's attention did not pass through ``F.scaled_dot_product_attention``.
    """

    def __init__(
        self,
        path: str,
        layer: nn.Module,
        call: PipelineCall,
        current: Callable[[], TokenLayout | None],
        receive: Callable[[Tensor], None],
    ) -> None:
        self._path = path
        self._layer = layer
        self._call = call
        self._current = current
        self._receive = receive
        self._mode = AttentionReader()
        self._entered = False

    def hook(self) -> list[Undo]:
        return [self.leave, before_module(self._layer, self._before), after_module(self._layer, self._after)]

    def leave(self) -> None:
        """Leave the mode, if an interruption came before the layer could."""
        if self._entered:
            self._entered = False
            self._mode.__exit__(None, None, None)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._current() is not None:
            self._mode.__enter__()
            self._entered = True

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        layout = self._current()
        if not self._entered or layout is None:  # of another thread, or of a call within this one
            return
        self.leave()
        calls = self._mode.take()
        if output is None:  # the layer raised: its own error is on the way up
            return
        # Others may be of an adapter.
        of_text = [call for call in calls if call.key.shape[2] == layout.keys]
        if not of_text:
            raise CaptureError(self._unread(calls))
        if len(of_text) > 1:
            raise CaptureError(
                f"'{self._path}' attends to the text {len(of_text)} times in one call: tap another layer"
            )
        self._receive(self._map(of_text[0], layout))

    def _unread(self, calls: Sequence[AttentionCall]) -> str:
        """Why there is no map."""
        if calls:
            return (
                f"'{self._path}' attends over {calls[0].key.shape[2]} keys, which are not those of the image and the "
                "prompt: reference images and further inputs cannot be captured"
            )
        processor = getattr(self._layer, "processor", None)
        named = f"its processor is {_name(processor)}" if processor is not None else f"it is a {_name(self._layer)}"
        backend = getattr(processor, "_attention_backend", None)
        with_backend = f" with the backend '{getattr(backend, 'value', backend)}'" if backend is not None else ""
        patch = stand_in()
        replaced = "" if patch is None else f", and {_name(patch)} stands in the place of that function"
        return (
            f"'{self._path}' does not call F.scaled_dot_product_attention ({named}{with_backend}{replaced}), so its "
            "attention cannot be read: use the default attention processor and backend "
            "(set_attention_backend('native'))"
        )

    def _map(self, call: AttentionCall, layout: TokenLayout) -> Tensor:
        conditional, joint, mask = self._call.conditional, layout.order != "cross", call.mask
        return attention_map(
            conditional(call.query),
            conditional(call.key),
            image=layout.image if joint else EVERYTHING,
            text=layout.text if joint else EVERYTHING,
            scale=call.scale,
            mask=conditional(mask) if mask is not None and mask.dim() == 4 and len(mask) > 1 else mask,
        )


def _name(thing: Any) -> str:
    """Where a function or the class of an object comes from."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


class MeanOfLayers:
    """Collects the maps of a tap's layers; every layer runs once per denoiser call."""

    def __init__(self, tap: Tap, layers: int) -> None:
        self.tap = tap
        self._layers = layers
        self._seen = 0
        self._total: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        self._seen += 1
        if self._seen > self._layers:
            raise CaptureError(f"'{self.tap}' runs twice per step: tap a module that runs once")
        if self._total is not None and self._total.shape != maps.shape:
            raise CaptureError(f"'{self.tap}' holds attention of several sizes: tap its blocks one by one")
        self._total = maps if self._total is None else self._total + maps

    def take(self) -> Tensor | None:
        """The mean [n, text, image], or None when nothing ran; then it is empty again."""
        total, seen = self._total, self._seen
        self._total, self._seen = None, 0
        return None if total is None else total / seen if seen > 1 else total


def image_output(output: Any, sequence: TokenLayout, is_block: bool) -> Tensor:
    """The image's part of what a module returned: [n, C, H, W] or [n, image tokens, C].

    A joint block returns (text, image), or one sequence of both; anything else has what matters first.
    """
    if isinstance(output, Tensor):
        tensor = output
    else:
        tensor = output[-1] if is_block and sequence.order != "cross" else output[0]
    if tensor.dim() == 3 and sequence.order != "cross" and tensor.shape[1] == sequence.keys:
        return tensor[:, sequence.image]
    return tensor
