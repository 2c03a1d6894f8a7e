"""From a cache to batches: splits by prompt, prompt-grouped batches, streamed or resident."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe_lab.data.batch import Batch
from probe_lab.data.groups import Groups, prompt_groups
from probe_lab.data.resident import ResidentArrays, load_resident
from probe_lab.data.splits import SPLITS, Split, SplitFractions, split_of, splits_of
from probe_lab.data.statistics import Statistics
from probe_lab.data.stream import BatchStream

if TYPE_CHECKING:
    from probe_lab.data.module import ProbeDataModule, Residency

__all__ = [
    "SPLITS",
    "Batch",
    "BatchStream",
    "Groups",
    "ProbeDataModule",
    "Residency",
    "ResidentArrays",
    "Split",
    "SplitFractions",
    "Statistics",
    "load_resident",
    "prompt_groups",
    "split_of",
    "splits_of",
]


def __getattr__(name: str) -> object:
    """Lightning takes seconds to import, and every command needs the splits: the module comes when it is asked for."""
    if name in ("ProbeDataModule", "Residency"):
        from probe_lab.data import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
