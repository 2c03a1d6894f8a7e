"""The Lightning data module: some taps of a cache at one step or several, with the scores of some evaluators."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import ChainDataset, DataLoader, IterableDataset

from probe_lab.cache import Cache
from probe_lab.config.duplicates import require_once
from probe_lab.data.batch import Batch
from probe_lab.data.groups import prompt_groups, some_of
from probe_lab.data.loader import EpochProgress, Layout, StreamLoader, TrainLoader
from probe_lab.data.resident import ResidentArrays, ResidentSource, fits_in_memory, load_resident
from probe_lab.data.scalar_table import scalar_table
from probe_lab.data.source import ShardSource, Source
from probe_lab.data.splits import SPLITS, Split, SplitFractions
from probe_lab.data.statistics import Statistics, compute_statistics
from probe_lab.data.stream import BatchStream
from probe_lab.data.text_lookup import TextTable
from probe_lab.errors import ConfigError, DataError, nearest

Residency = Literal["stream", "memory", "auto"]
_DEFAULT_FRACTIONS = SplitFractions()

# The length of these loaders is exact for any number of workers, which is what the warning doubts.
warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")


class ProbeDataModule(LightningDataModule):
    """Batches of whole prompt groups (up to `batch_prompts` prompts × all their scored seeds) for one probe.

    Samples without a score of every evaluator, and samples of incomplete shards, are left out (`left_out`
    counts them); prompts without any sample left do not exist here. Targets are raw scores in the order of
    `evaluators`.

    Training order depends on (seed, epoch) only: shards are permuted, and groups are permuted within windows
    of two shards (`residency="stream"`, memory: two shards of the taps) or within the whole split ("memory").
    "auto" is "memory" when the arrays of all ranks fit into a quarter of the available memory. The epoch is
    the trainer's, or that of `set_epoch`. The other splits come in cache order.

    Over all ranks and workers each group is seen exactly once per epoch, and every rank has the same number
    of batches, in training and evaluation: batches differ in size by one prompt where it does not divide.
    `oversample` > 0 repeats training groups of low mean score (first evaluator) in place of high ones, see
    `sample_order.repeats`; a group that is drawn twice may be twice in a batch.

    `train_prompts` > 0 trains on so many prompts of the training split, see `groups.some_of`. What an image's AUC asks,
    whether its score is above the median of the training split, is still asked of the whole split.

    `scalars` are read beside the arrays, see `scalars.LATENTS`, and behind them `judged`, float32 [samples, 2E], row by
    sample_id.

    With several `steps` a training batch holds prompts at different ones, each with all its seeds at the same, see
    `sample_order.steps_of`; validation and test have every prompt once at each, one step after the other. What is
    predicted is at `step` alone (`evaluation_dataloader`, `predict_dataloader`). Streaming then reads the arrays of all
    steps.

    `rank` and `world_size` are those of torch.distributed unless given. `resident` shares loaded arrays.
    Resident arrays are read in this process, without workers. ConfigError for impossible values; DataError
    for a step or tap that the cache lacks, for a split that should have prompts and has none, and for one of fewer
    than `train_prompts`; ScoreError
    for an evaluator or scalar without scores; CacheError for a text encoder that the cache lacks.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        step: int,
        taps: Sequence[str],
        evaluators: Sequence[str],
        batch_prompts: int = 16,
        fractions: SplitFractions = _DEFAULT_FRACTIONS,
        residency: Residency = "auto",
        seed: int = 0,
        oversample: float = 0.0,
        train_prompts: int = 0,
        text_encoder: str | None = None,
        scalars: Sequence[str] = (),
        judged: Tensor | None = None,
        steps: Sequence[int] = (),
        num_workers: int = 0,
        resident: ResidentArrays | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        _check_values(taps, evaluators, batch_prompts, residency, seed, oversample, num_workers)
        self.cache = cache
        self.step = step
        self.steps = tuple(steps) or (step,)
        self.taps = tuple(taps)
        self.evaluators = tuple(evaluators)
        self.fractions = fractions
        self.seed = seed
        self._keys = {number: _keys(cache, number, self.taps) for number in dict.fromkeys((*self.steps, step))}
        self._batch_prompts = batch_prompts
        self._asked_residency = residency
        self._oversample = oversample
        self._num_workers = num_workers
        self._rank, self._world_size = rank, world_size
        self._text = None if text_encoder is None else TextTable.load(cache, text_encoder)
        tables = [scalar_table(cache, step, scalars)] if scalars else []
        tables += [] if judged is None else [judged]
        self._scalars = torch.cat(tables, dim=1) if tables else None
        self._groups = prompt_groups(cache, self.evaluators, fractions)
        for split in SPLITS:
            if fractions.of(split) > 0:
                self._check_not_empty(split)
        self._all_scores = self._groups["train"].targets
        if train_prompts:
            self._limit(train_prompts)
        if resident is not None:
            resident.check(cache, self._all_keys)
        self._resident = resident
        self._in_memory: bool | None = None
        self._statistics: Statistics | None = None
        self._progress = EpochProgress()

    @property
    def sizes(self) -> dict[Split, int]:
        """Prompts per split that have at least one scored sample."""
        return {split: len(self._groups[split]) for split in SPLITS}

    @property
    def left_out(self) -> dict[Split, int]:
        """Samples per split that lack a score, or whose shard is not complete."""
        return {split: self._groups[split].left_out for split in SPLITS}

    @property
    def residency(self) -> Literal["stream", "memory"]:
        """What was chosen; with "auto" decided, once, when it is first needed."""
        return "memory" if self._is_in_memory() else "stream"

    def set_epoch(self, epoch: int) -> None:
        """Training order of the next iteration, where no trainer counts epochs."""
        self._progress.set_epoch(epoch)

    def train_dataloader(self) -> DataLoader[Batch]:
        self._check_not_empty("train")
        return TrainLoader(
            self._stream("train", self.steps, shuffle=True),
            num_workers=self._workers(),
            progress=self._progress,
            layout=self._layout(),
            current_epoch=self._current_epoch,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation("val", self.steps)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation("test", self.steps)

    def evaluation_dataloader(self, split: Split) -> DataLoader[Batch]:
        """A split at `step`, in cache order."""
        return self._evaluation(split, (self.step,))

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """Train, val and test in this order, each in cache order; a split that was given nothing is empty."""
        streams = [self._stream(split, (self.step,)) for split in SPLITS]
        return [StreamLoader(stream, num_workers=self._workers()) for stream in streams]

    def statistics(self) -> Statistics:
        """Over all that is trained on, at all steps, on every rank; read once, then remembered."""
        if self._statistics is None:
            self._check_not_empty("train")
            groups = self._groups["train"]
            everything = itertools.chain.from_iterable(
                BatchStream(groups, self._open((step,)), steps=(step,), batch_prompts=self._batch_prompts)
                for step in self.steps
            )
            self._statistics = compute_statistics(everything, self.taps, groups.targets, self._all_scores)
        return self._statistics

    def scalars_of(self, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """(scalars float32 [n, S], raw targets [n, E], number of the prompt int64 [n], from 0) of a split, which reads
        no arrays. Only where there are scalars."""
        assert self._scalars is not None
        groups = self._groups[split]
        sizes = torch.from_numpy(groups.start).diff()
        prompt = torch.arange(len(groups)).repeat_interleave(sizes)
        return self._scalars[torch.from_numpy(groups.sample_id)], torch.from_numpy(groups.targets), prompt

    def state_dict(self) -> dict[str, Any]:
        """Where training is inside its epoch; Lightning stores it in checkpoints."""
        return self._progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next training iteration yields exactly the rest of that epoch, in the same order.

        It raises DataError when something that decides the order (seed, ranks, workers, …) is no longer the
        same.
        """
        self._progress.load_state_dict(state_dict)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    def _evaluation(self, split: Split, steps: Sequence[int]) -> DataLoader[Batch]:
        self._check_not_empty(split)
        streams = [self._stream(split, (step,)) for step in steps]
        dataset: IterableDataset[Batch] = streams[0] if len(streams) == 1 else ChainDataset(streams)
        return StreamLoader(dataset, num_workers=self._workers())

    def _stream(self, split: Split, steps: Sequence[int], *, shuffle: bool = False) -> BatchStream:
        rank, world_size = self._ranks()
        groups = self._groups[split]
        most = math.ceil(len(groups) / world_size)
        if len(groups) // world_size < math.ceil(most / self._batch_prompts):
            raise DataError(
                f"the {len(groups)} prompts of the {split} split cannot be shared evenly by {world_size} "
                f"ranks in batches of {self._batch_prompts}: use fewer devices, or larger data.batch_prompts"
            )
        return BatchStream(
            groups,
            self._open(steps),
            steps=steps,
            batch_prompts=self._batch_prompts,
            seed=self.seed,
            shuffle=shuffle,
            oversample=self._oversample,
            text=self._text,
            scalars=self._scalars,
            rank=rank,
            world_size=world_size,
        )

    @property
    def _all_keys(self) -> list[str]:
        return [key for keys in self._keys.values() for key in keys.values()]

    def _open(self, steps: Sequence[int]) -> Source:
        keys = {step: self._keys[step] for step in steps}
        if self._is_in_memory():
            if self._resident is None:
                self._resident = load_resident(self.cache, self._all_keys)
            return ResidentSource(self._resident, keys)
        return ShardSource(self.cache, keys)

    def _is_in_memory(self) -> bool:
        if self._in_memory is None:
            self._in_memory = (
                self._resident is not None
                or self._asked_residency == "memory"
                or (self._asked_residency == "auto" and fits_in_memory(self.cache, self._all_keys, self._ranks()[1]))
            )
        return self._in_memory

    def _workers(self) -> int:
        return 0 if self.residency == "memory" else self._num_workers

    def _ranks(self) -> tuple[int, int]:
        if self._rank is not None and self._world_size is not None:
            return self._rank, self._world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _current_epoch(self) -> int:
        training = self.trainer is not None and self.trainer.training
        return self.trainer.current_epoch if training and self.trainer else self._progress.epoch

    def _layout(self) -> Layout:
        """All that decides which samples the first batches of an epoch hold."""
        several: Layout = {"probe.steps": str(list(self.steps))} if len(self.steps) > 1 else {}
        return {
            **several,
            "data.seed": self.seed,
            "data.batch_prompts": self._batch_prompts,
            "data.oversample": self._oversample,
            "data.split": str(self.fractions),
            "data.residency": self.residency,
            "data.num_workers": self._workers(),
            "devices": self._ranks()[1],
            "training samples": len(self._groups["train"].sample_id),
        }

    def _limit(self, prompts: int) -> None:
        everything = self._groups["train"]
        if prompts > len(everything):
            raise DataError(
                f"data.train_prompts={prompts} is more than the {len(everything)} scored prompts of the training split "
                f"of the cache {self.cache.manifest.name!r}: give fewer, or 0 for all"
            )
        self._groups["train"] = some_of(everything, prompts, self.seed)

    def _check_not_empty(self, split: Split) -> None:
        if len(self._groups[split]) == 0:
            prompts = self.cache.manifest.count // self.cache.manifest.seeds
            raise DataError(
                f"the {split} split of the cache {self.cache.manifest.name!r} is empty: of its {prompts} "
                f"prompts (split {self.fractions}), none there has scores of {', '.join(self.evaluators)}; "
                f"generate and score more prompts, or raise data.split.{split}"
            )


def _keys(cache: Cache, step: int, taps: Sequence[str]) -> Mapping[str, str]:
    """Tap string -> key of its array. DataError for a step or tap that was not captured."""
    manifest = cache.manifest
    if step not in manifest.captured_steps:
        raise DataError(
            f"the cache {manifest.name!r} has no step {step}: choose one of "
            f"{', '.join(map(str, manifest.captured_steps))}, or capture it"
        )
    for tap in taps:
        if tap not in manifest.taps:
            raise DataError(f"the cache {manifest.name!r} has no tap {tap!r}: {nearest(tap, manifest.taps)}")
    return {tap: f"{step}/{tap}" for tap in taps}


def _check_values(
    taps: Sequence[str],
    evaluators: Sequence[str],
    batch_prompts: int,
    residency: str,
    seed: int,
    oversample: float,
    num_workers: int,
) -> None:
    if not taps:
        raise ConfigError("probe.taps is empty: name at least one tap of the cache")
    if not evaluators:
        raise ConfigError("probe.evaluators is empty: name at least one evaluator that has scored the cache")
    for key, names in {"probe.taps": taps, "probe.evaluators": evaluators}.items():
        require_once(f"'{key}'", names)
    if batch_prompts < 1:
        raise ConfigError(f"data.batch_prompts={batch_prompts} is not allowed: give 1 or more prompts per batch")
    if residency not in ("stream", "memory", "auto"):
        raise ConfigError(
            f"data.residency={residency!r} is not known: {nearest(residency, ('stream', 'memory', 'auto'))}"
        )
    if seed < 0:
        raise ConfigError(f"data.seed={seed} is negative: give 0 or more")
    if not 0 <= oversample < math.inf:
        raise ConfigError(f"data.oversample={oversample} is not allowed: give 0 (off) or a positive number")
    if num_workers < 0:
        raise ConfigError(f"data.num_workers={num_workers} is negative: give 0 (no worker processes) or more")
