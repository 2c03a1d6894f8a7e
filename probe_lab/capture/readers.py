"""Hooks of one capture: what reads the attention of layers and the output of modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from probe_lab.capture.attention import EVERYTHING, AttentionReader, attention_map
from probe_lab.capture.call import PipelineCall
from probe_lab.capture.family import Family, Order
from probe_lab.capture.layout import Arguments, Grid
from probe_lab.capture.listen import Undo, after_module, before_module
from probe_lab.capture.taps import Tap
from probe_lab.errors import CaptureError


@dataclass(frozen=True)
class TokenLayout:
    """How many image and text tokens the layers of one denoiser call attend over, and where they stand."""

    grid: Grid
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
        self._mode = AttentionReader(self._read)
        self._entered = False
        self._maps: list[Tensor] = []
        self._other_keys: list[int] = []

    def hook(self) -> list[Undo]:
        return [self.leave, before_module(self._layer, self._before), after_module(self._layer, self._after)]

    def leave(self) -> None:
        """Leave the mode, if an interruption came before the layer could."""
        self._maps, self._other_keys = [], []
        if self._entered:
            self._entered = False
            self._mode.__exit__(None, None, None)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._current() is not None:
            self._mode.__enter__()
            self._entered = True

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        if not self._entered or self._current() is None:  # of another thread, or of a call within this one
            return
        maps, others = self._maps, self._other_keys
        self.leave()
        if output is None:  # the layer raised: its own error is on the way up
            return
        if not maps and others:
            raise CaptureError(
                f"'{self._path}' attends over {others[0]} keys, which are not those of the image and the prompt: "
                "reference images and further inputs cannot be captured"
            )
        if not maps:
            raise CaptureError(
                f"'{self._path}' does not call F.scaled_dot_product_attention, so its attention cannot be read: use "
                "the default attention processor and backend (set_attention_backend('native'))"
            )
        if len(maps) > 1:
            raise CaptureError(f"'{self._path}' attends to the text {len(maps)} times in one call: tap another layer")
        self._receive(maps[0])

    def _read(self, query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None) -> None:
        sequence = self._current()
        if sequence is None:
            return
        if key.shape[2] != sequence.keys:  # of an adapter, perhaps: there may be another call
            self._other_keys.append(key.shape[2])
            return
        conditional = self._call.conditional
        joint = sequence.order != "cross"
        self._maps.append(
            attention_map(
                conditional(query),
                conditional(key),
                image=sequence.image if joint else EVERYTHING,
                text=sequence.text if joint else EVERYTHING,
                scale=scale,
                mask=conditional(mask) if mask is not None and mask.dim() == 4 and len(mask) > 1 else mask,
            )
        )


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
