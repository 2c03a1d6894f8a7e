"""Let a stock pipeline that is under way go on with some of its rows.

A pipeline keeps latents, embeddings and the state of its scheduler in places that nobody outside can reach in every
family. So these keep all their rows, and only what costs anything is narrowed: the denoiser is given the kept rows, and
its output is put back among zeros; the autoencoder decodes the kept rows. What a scheduler does to the others is a few
additions of zeros, and its own state, whatever it is, stays that of the whole call.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from probe_lab.capture.listen import replace_method

_NOT_PER_ROW = ("img_ids", "txt_ids")
"""Positions of tokens: without an axis of rows where they are matrices."""


class NarrowedRows:
    """While it watches a call of ``pipe``, ``keep`` narrows what is denoised and decoded. All ``rows`` at first."""

    def __init__(self, pipe: DiffusionPipeline, denoiser: nn.Module, rows: int) -> None:
        self._pipe = pipe
        self._denoiser = denoiser
        self._signature = inspect.signature(denoiser.forward)
        self._rows = rows
        self._kept: Tensor | None = None
        self._places_of: dict[int, Tensor] = {}
        self._copies = 1

    def keep(self, rows: Tensor) -> None:
        """From the next denoiser call on, only these rows of the call, in this order; int64."""
        self._kept = rows
        # Once, and not for every argument of every denoiser call: of as many rows as images, and of twice as many.
        self._places_of = {copies: torch.cat([rows + copy * self._rows for copy in range(copies)]) for copies in (1, 2)}

    def watch(self, stack: ExitStack) -> None:
        """Narrow until ``stack`` is closed."""
        stack.callback(self._denoiser.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        stack.callback(self._denoiser.register_forward_hook(self._after).remove)
        stack.callback(replace_method(self._pipe.vae, "decode", self._decode))

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._kept is None:
            return None
        bound = self._signature.bind(*args, **kwargs)
        self._copies = len(bound.arguments["hidden_states" if "hidden_states" in bound.arguments else "sample"])
        self._copies //= self._rows
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._narrowed(value, name)
        return bound.args, bound.kwargs

    def _narrowed(self, value: Any, name: str = "") -> Any:
        """The kept rows of whatever has one entry per row, or two, at any depth."""
        if isinstance(value, Tensor):
            per_row = value.dim() > 0 and not (name in _NOT_PER_ROW and value.dim() == 2)
            return value[self._places(len(value)).to(value.device)] if per_row and self._is_rows(value) else value
        if isinstance(value, Mapping):
            return {key: self._narrowed(part, str(key)) for key, part in value.items()}
        if isinstance(value, list) and self._is_rows(value):
            return [value[place] for place in self._places(len(value)).tolist()]
        return value

    def _is_rows(self, value: Tensor | list[Any]) -> bool:
        return len(value) in (self._rows, 2 * self._rows)

    def _places(self, length: int) -> Tensor:
        """Of the kept rows in a batch that may hold them twice, without and with the prompt."""
        return self._places_of[length // self._rows]

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._kept is None:
            return None
        if isinstance(output, tuple):
            return (self._widened(output[0]), *output[1:])
        output.sample = self._widened(output.sample)
        return output

    def _widened(self, sample: Tensor) -> Tensor:
        full = sample.new_zeros(self._copies * self._rows, *sample.shape[1:])
        full[self._places(len(full)).to(full.device)] = sample
        return full

    def _decode(self, decode: Any, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._kept is not None and len(latents) == self._rows:
            latents = latents[self._kept.to(latents.device)]
        return decode(latents, *args, **kwargs)
