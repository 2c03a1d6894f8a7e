"""Samples whose image is no picture of their prompt: marked in the sidecar of their shard, and never a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, get_args

Fault = Literal["flagged", "not_finite"]
"""A safety checker made the image black; or the numbers that it is made from held NaN or infinity."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
FAULT_WORDS: dict[Fault, str] = {"flagged": "flagged by the safety checker", "not_finite": "not finite (NaN)"}
_REMEDIES: dict[Fault, str] = {
    "flagged": "set sampling.safety_checker=false to leave the checker out, or change the prompts",
    "not_finite": "set sampling.dtype=float32 or bfloat16",
}


def faults_text(faults: Iterable[Fault]) -> str:
    """``2 flagged by the safety checker, 1 not finite (NaN)``."""
    counts = Counter(faults)
    return ", ".join(f"{counts[fault]} {FAULT_WORDS[fault]}" for fault in FAULTS if counts[fault])


def faults_remedy(faults: Iterable[Fault]) -> str:
    """What avoids these faults."""
    present = set(faults)
    return "; ".join(_REMEDIES[fault] for fault in FAULTS if fault in present)
