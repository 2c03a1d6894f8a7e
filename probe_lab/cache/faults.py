"""Samples whose image is no picture of their prompt: marked in the sidecar of their shard, and never a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from probe_lab.errors import CacheError

if TYPE_CHECKING:
    from probe_lab.cache.reader import Cache

Fault = Literal["flagged", "not_finite"]
"""A safety checker made the image black; or the numbers that it is made from held NaN or infinity."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
FAULT_WORDS: dict[Fault, str] = {"flagged": "flagged by the safety checker", "not_finite": "not finite (NaN)"}
_NAMED = 10
"""Samples that a sentence lists."""
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


def require_pictures(cache: Cache) -> None:
    """CacheError where no image of the complete shards is a picture: there is nothing to learn from."""
    if cache.shards and not len(cache.picture_samples):
        raise no_picture(cache.folder, list(cache.faults.values()))


def no_picture(folder: Path, faults: Sequence[Fault]) -> CacheError:
    """The error for a run all of whose images have a fault."""
    return CacheError(
        f"all {len(faults)} images of {folder} are no pictures of their prompts ({faults_text(faults)}): "
        f"{faults_remedy(faults)}, with another cache.name"
    )


def faults_note(cache: Cache) -> str:
    """How many images are no pictures, and what that means; empty where there are none."""
    faults = cache.faults
    if not faults:
        return ""
    samples = ", ".join(map(str, sorted(faults)[:_NAMED])) + (", …" if len(faults) > _NAMED else "")
    return (
        f"{len(faults)} of {len(cache.complete_samples)} images of {cache.folder} are no pictures of their prompts "
        f"({faults_text(faults.values())}; samples {samples}): they are marked, and get no score; "
        f"{faults_remedy(faults.values())}"
    )
