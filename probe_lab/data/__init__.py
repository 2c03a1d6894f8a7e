"""From a cache to batches: splits by prompt, prompt-grouped batches, streamed or resident."""

from probe_lab.data.batch import Batch
from probe_lab.data.groups import Groups, prompt_groups
from probe_lab.data.module import ProbeDataModule, Residency
from probe_lab.data.resident import ResidentArrays, load_resident
from probe_lab.data.splits import SPLITS, Split, SplitFractions, split_of
from probe_lab.data.statistics import Statistics
from probe_lab.data.stream import BatchStream

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
]
