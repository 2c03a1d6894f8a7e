"""Let a stock pipeline that is under way go on with some of its rows.

A pipeline keeps latents, embeddings and the state of its scheduler in places that nobody outside can reach in every
family. So these keep all their rows, and only what costs anything is narrowed: the denoiser is given the kept rows, and
its output is put back among zeros; the autoencoder decodes the kept rows. What a scheduler does to the others is a few
additions of zeros, and its own state, whatever it is, stays that of the whole call.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from probe_lab.capture.listen import replace_method
from probe_lab.capture.rows import Entries, entries_of, taken


class NarrowedRows:
    """While it watches a call of ``pipe``, ``keep`` narrows what is denoised and decoded. All ``rows`` at first."""

    def __init__(self, pipe: DiffusionPipeline, denoiser: nn.Module, rows: int) -> None:
        self._pipe = pipe
        self._denoiser = denoiser
        self._signature = inspect.signature(denoiser.forward)
        self._rows = rows
        self._kept: Tensor | None = None
        self._entries: Entries = {}
        self._copies = 1

    def keep(self, rows: Tensor) -> None:
        """From the next denoiser call on, only these rows of the call, in this order; int64."""
        self._kept = rows
        self._entries = entries_of(rows, self._rows)

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
        # By name, as pipelines give them: what wraps a forward, for the scale of LoRAs say, looks among the named ones.
        return (), {name: taken(value, self._entries, name) for name, value in bound.arguments.items()}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._kept is None:
            return None
        if isinstance(output, tuple):
            return (self._widened(output[0]), *output[1:])
        output.sample = self._widened(output.sample)
        return output

    def _widened(self, sample: Tensor) -> Tensor:
        full = sample.new_zeros(self._copies * self._rows, *sample.shape[1:])
        full[self._entries[len(full)].to(full.device)] = sample
        return full

    def _decode(self, decode: Any, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._kept is not None and len(latents) == self._rows:
            latents = latents[self._kept.to(latents.device)]
        return decode(latents, *args, **kwargs)
