"""What a tap is: a place in the denoiser and the kind of tensor that is read there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from probe_lab.cache.layout import PLACELESS
from probe_lab.errors import CaptureError, nearest

TapKind = Literal["attention", "activation", "latent", "x0", "lookahead"]
KINDS: tuple[TapKind, ...] = get_args(TapKind)
_NAMED = "'latent', 'x0' or 'lookahead'"


@dataclass(frozen=True)
class Tap:
    """A module path below the denoiser with ``attention`` or ``activation``; or, with no path, one of ``PLACELESS``.

    ``attention`` is image-query × text-key cross-attention, heads averaged: [tokens, H, W] per image.
    ``activation`` is the module's output: [channels, H, W]. ``latent`` is the noisy latent that goes into the step,
    ``x0`` the clean latent that the denoiser predicts there, after guidance, ``lookahead`` the one that it predicts
    after one large step from there, see ``Lookahead``: all [latent channels, h, w].
    """

    module: str
    kind: TapKind

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CaptureError(f"'{self.kind}' is no kind of tap: {nearest(self.kind, KINDS)}")
        if (self.module == "") != (self.kind in PLACELESS):
            rule = "takes no module path" if self.module else "needs a module path"
            raise CaptureError(f"the tap '{self}' {rule}: write '<module path>/attention', or {_NAMED}")

    def __str__(self) -> str:
        return f"{self.module}/{self.kind}" if self.module else self.kind

    @classmethod
    def parse(cls, text: str) -> Tap:
        """The tap that ``<module path>/<kind>``, or one of ``PLACELESS``, names."""
        module, _, kind = text.rpartition("/")
        if kind not in KINDS:
            raise CaptureError(
                f"'{text}' names no kind of tap: write '<module path>/attention', '<module path>/activation', {_NAMED}"
            )
        return cls(module, kind)
