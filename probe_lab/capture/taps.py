"""What a tap is: a place in the denoiser and the kind of tensor that is read there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from probe_lab.errors import CaptureError, nearest

Kind = Literal["attention", "activation", "latent", "x0"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Tap:
    """A module path below the denoiser with ``attention`` or ``activation``; or, with no path, ``latent`` or ``x0``.

    ``attention`` is image-query × text-key cross-attention, heads averaged: [tokens, H, W] per image.
    ``activation`` is the module's output: [channels, H, W]. ``latent`` is the noisy latent that goes into the step,
    ``x0`` the clean latent that the denoiser predicts there, after guidance: both [latent channels, h, w].
    """

    module: str
    kind: Kind

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CaptureError(f"'{self.kind}' is no kind of tap: {nearest(self.kind, KINDS)}")
        if (self.module == "") != (self.kind in ("latent", "x0")):
            rule = "takes no module path" if self.module else "needs a module path"
            raise CaptureError(f"the tap '{self}' {rule}: write '<module path>/attention', 'latent' or 'x0'")

    def __str__(self) -> str:
        return f"{self.module}/{self.kind}" if self.module else self.kind

    @classmethod
    def parse(cls, text: str) -> Tap:
        """The tap that ``<module path>/<kind>``, ``latent`` or ``x0`` names."""
        module, _, kind = text.rpartition("/")
        if kind not in KINDS:
            raise CaptureError(
                f"'{text}' names no kind of tap: write '<module path>/attention', '<module path>/activation', "
                "'latent' or 'x0'"
            )
        return cls(module, kind)
