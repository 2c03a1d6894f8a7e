"""What a capture is measured against, and on how many images: lean eager attention, and tools as they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec

from diffusers import DiffusionPipeline

from benchmarks.backbones import Workload
from benchmarks.eager import Layers, eager_attention
from benchmarks.tools import daam, maps_0_1_5, maps_1_0, prompt_to_prompt
from probe_lab.backbones.families import family_of

UNETS = ("tiny-sd", "sdxl-cut", "sdxl-cut-128")


@dataclass(frozen=True)
class Peer:
    """``around`` is put around a generation of the ``workloads``; ``alone`` are those where it takes one image.

    ``eager``: whether it computes attention explicitly at every step, which is what a capture has to beat.
    """

    name: str
    around: Callable[[DiffusionPipeline], AbstractContextManager[object]]
    workloads: tuple[str, ...] = (*UNETS, "tiny-sd3")
    alone: tuple[str, ...] = ()
    eager: bool = True
    package: str = ""

    @property
    def missing(self) -> bool:
        """Whether the package that it runs is not installed."""
        return bool(self.package) and find_spec(self.package) is None

    def images(self, workload: Workload) -> int:
        return 1 if workload.name in self.alone else workload.images


def _lean(layers: Layers) -> Callable[[DiffusionPipeline], AbstractContextManager[object]]:
    return lambda pipe: eager_attention(family_of(pipe).denoiser_of(pipe), layers)


PEERS = (
    Peer("eager text", _lean("text")),
    Peer("eager all", _lean("all")),
    Peer("daam", daam, UNETS, alone=UNETS),
    Peer("maps 0.1.5", maps_0_1_5, alone=("tiny-sd3",)),
    Peer("p2p", prompt_to_prompt, UNETS),
    Peer("maps 1.0", maps_1_0, eager=False, package="attention_map_diffusers"),
)


def peers_of(workload: Workload) -> list[Peer]:
    """Those that can run it here."""
    return [peer for peer in PEERS if workload.name in peer.workloads and not peer.missing]
