"""Batches from a real cache: each sample once, whole groups, the right content, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from data_world import STEP, TAPS, Build, World

from probe_lab.cache import Cache, scattered_rows
from probe_lab.cache.shards import Unread
from probe_lab.cache.tensors import OpenFile
from probe_lab.data import Batch, ProbeDataModule, SplitFractions
from probe_lab.errors import CacheError, DataError

HALF = SplitFractions(0.6, 0.2, 0.2)


def module(world: World, **changes: Any) -> ProbeDataModule:
    values: dict[str, Any] = {
        "step": STEP,
        "taps": list(TAPS),
        "evaluators": ["quality", "layout"],
        "batch_prompts": 4,
        "fractions": HALF,
        "residency": "stream",
    }
    return ProbeDataModule(world.cache, **(values | changes))


def ids(batches: Any) -> list[int]:
    return [int(sample) for batch in batches for sample in batch.sample_id]


def check_content(world: World, batch: Batch) -> None:
    rows = batch.sample_id
    for tap in TAPS:
        assert batch.features[tap].dtype == torch.float32
        assert torch.equal(batch.features[tap], world.arrays[f"{STEP}/{tap}"][rows].float())
    expected = np.stack([world.scores["quality"], world.scores["layout"]], axis=1)[rows.numpy()]
    assert batch.targets.dtype == torch.float32
    assert np.array_equal(batch.targets.numpy(), expected)
    assert torch.equal(batch.group, rows // world.cache.manifest.seeds)
    assert batch.step.tolist() == [STEP] * len(rows)


@pytest.mark.parametrize("residency", ["stream", "memory"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_sample_once_over_all_ranks(world: World, residency: str, ranks: int) -> None:
    for split in ("train", "val", "test"):
        seen = Counter[int]()
        lengths = set()
        for rank in range(ranks):
            data = module(world, residency=residency, rank=rank, world_size=ranks, batch_prompts=2)
            loader = getattr(data, f"{split}_dataloader")()
            batches = list(loader)
            assert len(batches) == len(loader)
            lengths.add(len(batches))
            for batch in batches:
                check_content(world, batch)
                assert len(batch) <= 2 * 3
                assert set(Counter(batch.group.tolist()).values()) == {3}, "a prompt group was torn apart"
            seen.update(ids(batches))
        assert seen == Counter(world.split(split, HALF))
        assert len(lengths) == 1, "ranks would wait for each other"


def test_every_sample_once_over_ranks_and_real_workers(world: World) -> None:
    seen = Counter[int]()
    for rank in range(2):
        data = module(world, num_workers=2, rank=rank, world_size=2, batch_prompts=2)
        batches = list(data.train_dataloader())
        for batch in batches:
            check_content(world, batch)
        seen.update(ids(batches))
    assert seen == Counter(world.split("train", HALF))


def test_ranks_are_those_of_torch_distributed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ids(module(world, rank=1, world_size=2).train_dataloader())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert ids(module(world).train_dataloader()) == expected


@pytest.mark.parametrize("residency", ["stream", "memory"])
def test_order_changes_with_epoch_and_seed_only(world: World, residency: str) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        data = module(world, residency=residency, seed=seed)
        data.set_epoch(epoch)
        return ids(data.train_dataloader())

    orders = [order(seed, epoch) for seed in (0, 7) for epoch in (0, 1)]
    assert orders == [order(seed, epoch) for seed in (0, 7) for epoch in (0, 1)]
    assert len({tuple(found) for found in orders}) == 4
    assert len({tuple(sorted(found)) for found in orders}) == 1


def test_groups_of_two_shards_are_mixed(world: World) -> None:
    data = module(world)
    shard = world.cache.samples["shard"].to_numpy()
    switches = 0
    for epoch in range(4):
        data.set_epoch(epoch)
        switches += sum(a != b for a, b in pairwise(shard[ids(data.train_dataloader())]))
    assert switches > 4 * len(world.cache.shards)


def test_evaluation_order_is_that_of_the_cache(world: World) -> None:
    data = module(world)
    assert ids(data.val_dataloader()) == world.split("val", HALF)
    assert [ids(loader) for loader in data.predict_dataloader()] == [
        world.split(split, HALF) for split in ("train", "val", "test")
    ]


def test_streaming_holds_two_shards_and_asks_each_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = Cache.read_rows

    def read_rows(self: Cache, key: str, shard: int, rows: Any, out: torch.Tensor, places: Any) -> None:
        assert len(out) <= 2 * 12
        asked.append(shard)
        real(self, key, shard, rows, out, places)

    monkeypatch.setattr(Cache, "read_rows", read_rows)
    data = module(world, taps=["x0"])
    list(data.train_dataloader())
    needed = world.cache.samples["shard"][world.split("train", HALF)].unique()
    assert sorted(asked) == sorted(needed)


def test_rows_of_other_splits_are_not_read_where_they_are_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scattered_rows, "GAP_BYTES", 0)
    read = 0
    real = OpenFile.read_views

    def read_views(self: OpenFile, views: Sequence[memoryview], start: int) -> None:
        nonlocal read
        read += sum(view.nbytes for view in views)
        real(self, views, start)

    monkeypatch.setattr(OpenFile, "read_views", read_views)
    sample = sum(world.arrays[f"{STEP}/{tap}"][0].nbytes for tap in TAPS)
    for split in ("train", "val"):
        read = 0
        batches = list(getattr(module(world), f"{split}_dataloader")())
        for batch in batches:
            check_content(world, batch)
        assert read == sample * len(world.split(split, HALF))


def test_what_was_compared_with_its_checksum_is_not_compared_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody reads all rows of a shard: those of other splits stay unread."""
    data = module(replace(world, cache=Cache(world.cache.folder)))
    list(data.train_dataloader())
    compared: list[str] = []
    monkeypatch.setattr(Unread, "compare", lambda self, number, key, *rest: compared.append(key))
    data.set_epoch(1)
    list(data.train_dataloader())
    assert compared == []
    list(data.val_dataloader())
    assert compared


def test_the_number_of_workers_leaves_the_random_state_alike(world: World) -> None:
    states = []
    for workers in (0, 1):
        torch.manual_seed(0)
        list(module(world, num_workers=workers).train_dataloader())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("wrong", ["rows", "dtype", "order"])
def test_rows_that_do_not_fit_are_refused(world: World, wrong: str) -> None:
    key = f"{STEP}/x0"
    out = world.cache.read(key, 0, slice(0, 2))
    if wrong != "rows":
        out = out.double() if wrong == "dtype" else torch.stack([out, out], dim=-1)[..., 0]
    rows = np.array([0, 10**6 if wrong == "rows" else 1])
    with pytest.raises(CacheError, match="row 1000000 was asked for" if wrong == "rows" else "give a contiguous CPU"):
        world.cache.read_rows(key, 0, rows, out, np.array([1, 0]))


def test_validation_inside_a_training_epoch_does_not_disturb_it(world: World) -> None:
    data = module(world, batch_prompts=2)
    for batch in data.train_dataloader():
        list(data.val_dataloader())
        list(data.predict_dataloader()[0])
        check_content(world, batch)


@pytest.mark.parametrize(("residency", "workers"), [("stream", 0), ("stream", 2), ("memory", 0)])
def test_resume_yields_exactly_the_rest_of_the_epoch(world: World, residency: str, workers: int) -> None:
    values = {"residency": residency, "num_workers": workers, "batch_prompts": 2, "oversample": 1.0}
    data = module(world, **values)
    data.set_epoch(3)
    whole = [batch.sample_id.tolist() for batch in data.train_dataloader()]
    for stop in (1, 4, len(whole) - 1):
        data.set_epoch(0)
        data.set_epoch(3)
        iterator = iter(data.train_dataloader())
        for _ in range(stop):
            next(iterator)
        state = data.state_dict()

        resumed = module(world, **values)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state, "saving at once must not lose the position"
        rest = [batch.sample_id.tolist() for batch in resumed.train_dataloader()]
        assert rest == whole[stop:]
        again = [batch.sample_id.tolist() for batch in resumed.train_dataloader()]
        assert again == whole, "only the first iteration is a rest"


def test_state_at_the_end_of_an_epoch_is_the_start_of_the_next(world: World) -> None:
    data = module(world)
    loader = data.train_dataloader()
    iterator = iter(loader)
    for _ in range(len(loader)):  # as Lightning does: it never asks for the batch after the last one
        next(iterator)
    resumed = module(world, num_workers=2)  # other workers may do the next epoch
    resumed.load_state_dict(data.state_dict())
    data.set_epoch(1)
    assert Counter(ids(resumed.train_dataloader())) == Counter(ids(data.train_dataloader()))
    assert resumed.state_dict()["epoch"] == 2


def test_resuming_with_another_layout_is_refused(world: World) -> None:
    data = module(world)
    next(iter(data.train_dataloader()))
    other = module(world, batch_prompts=3)
    other.load_state_dict(data.state_dict())
    with pytest.raises(DataError, match=r"data\.batch_prompts=4.*has 3"):
        next(iter(other.train_dataloader()))


def test_low_score_groups_are_seen_more_often(world: World) -> None:
    data = module(world, oversample=3.0, evaluators=["quality"])
    train = world.split("train", HALF)
    seen = Counter[int]()
    for epoch in range(40):
        data.set_epoch(epoch)
        batches = list(data.train_dataloader())
        for batch in batches:
            check = Counter(batch.group.tolist())
            assert all(count % 3 == 0 for count in check.values()), "a repeated group is whole too"
            rows = batch.sample_id
            assert torch.equal(batch.features["x0"], world.arrays[f"{STEP}/x0"][rows].float())
        found = ids(batches)
        assert len(found) == len(train)
        seen.update(found)
    score = world.scores["quality"].reshape(-1, 3).mean(1)
    prompts = sorted({sample // 3 for sample in train}, key=lambda prompt: score[prompt])
    third = len(prompts) // 3
    low = np.mean([seen[prompt * 3] for prompt in prompts[:third]])
    high = np.mean([seen[prompt * 3] for prompt in prompts[-third:]])
    assert low > 2 * high
    assert Counter(ids(data.val_dataloader())) == Counter(world.split("val", HALF))


def test_missing_scores_are_left_out_and_counted(build: Build) -> None:
    everything = build()
    train = everything.split("train", HALF)
    whole_prompt = [sample for sample in train if sample // 3 == train[-1] // 3]
    missing = (train[0], *whole_prompt)
    world = build(missing=missing)
    data = module(world)
    assert data.left_out == {"train": 4, "val": 0, "test": 0}
    assert data.sizes["train"] == len({sample // 3 for sample in train}) - 1
    batches = list(data.train_dataloader())
    assert Counter(ids(batches)) == Counter(set(train) - set(missing))
    for batch in batches:
        check_content(world, batch)
    only_layout = module(world, evaluators=["layout"])
    assert only_layout.left_out["train"] == 0


@pytest.mark.parametrize("residency", ["stream", "memory"])
def test_incomplete_shards_are_left_out_and_counted(build: Build, residency: str) -> None:
    world = build(skip_shards=(1, 7))
    data = module(world, residency=residency)
    assert sum(data.left_out.values()) == 12 + 6
    batches = [batch for loader in data.predict_dataloader() for batch in loader]
    shard = world.cache.samples["shard"].to_numpy()
    assert sorted(ids(batches)) == np.flatnonzero((shard != 1) & (shard != 7)).tolist()
    for batch in batches:
        check_content(world, batch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_cache_dtypes(build: Build, dtype: str) -> None:
    world = build(prompts=12, dtype=dtype)
    for residency in ("stream", "memory"):
        for batch in module(world, residency=residency).train_dataloader():
            check_content(world, batch)
