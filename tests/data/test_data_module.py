"""Choices and refusals of the data module, text, residency and sharing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from data_world import STEP, TAPS, Build, World

from probe_lab.data import ProbeDataModule, SplitFractions, load_resident, resident
from probe_lab.errors import CacheError, ConfigError, DataError, ScoreError

TENTHS = SplitFractions(0.6, 0.2, 0.2)


def module(world: World, **changes: Any) -> ProbeDataModule:
    values: dict[str, Any] = {
        "step": STEP,
        "taps": ["x0"],
        "evaluators": ["quality"],
        "fractions": TENTHS,
    }
    return ProbeDataModule(world.cache, **(values | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"step": 7}, DataError, "no step 7: choose one of 1, 5"),
        ({"taps": ["x1"]}, DataError, "did you mean 'x0'"),
        ({"taps": []}, ConfigError, "probe.taps is empty"),
        ({"evaluators": []}, ConfigError, "probe.evaluators is empty"),
        ({"evaluators": ["qualty"]}, ScoreError, "quality"),
        ({"text_encoder": "clop"}, CacheError, "clip"),
        ({"batch_prompts": 0}, ConfigError, "data.batch_prompts=0"),
        ({"residency": "disk"}, ConfigError, "data.residency='disk'"),
        ({"seed": -1}, ConfigError, "data.seed=-1"),
        ({"oversample": -0.5}, ConfigError, "data.oversample=-0.5"),
        ({"oversample": math.nan}, ConfigError, "data.oversample=nan"),
        ({"num_workers": -1}, ConfigError, "data.num_workers=-1"),
    ],
)
def test_impossible_values_are_refused_at_once(
    world: World, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        module(world, **changes)
    assert "\n" not in str(raised.value)


def test_an_empty_split_names_itself_and_the_way_out(build: Build) -> None:
    world = build(prompts=2)
    with pytest.raises(DataError, match=r"(val|test) split of the cache 'world' is empty: of its 2 prompts"):
        module(world)


def test_a_split_without_scores_is_empty(build: Build) -> None:
    with pytest.raises(DataError, match=r"train split .* none there has scores of quality"):
        module(build(missing=tuple(range(90))))


def test_a_split_that_was_given_nothing_is_refused_only_when_asked_for(world: World) -> None:
    data = module(world, fractions=SplitFractions(0.8, 0.2, 0.0))
    assert data.sizes["test"] == 0
    assert len(list(data.val_dataloader())) > 0
    with pytest.raises(DataError, match=r"test split .*raise data\.split\.test"):
        data.test_dataloader()
    assert [len(list(loader)) > 0 for loader in data.predict_dataloader()] == [True, True, False]


@pytest.mark.parametrize("changes", [{"world_size": 20}, {"world_size": 2, "batch_prompts": 1}])
def test_a_split_that_ranks_cannot_share_evenly_is_refused(world: World, changes: dict[str, int]) -> None:
    sizes = module(world).sizes
    split = next(name for name, size in sizes.items() if size < 20 and size % 2)
    data = module(world, rank=0, **changes)
    with pytest.raises(DataError, match=f"{split} split cannot be shared evenly by {changes['world_size']}"):
        getattr(data, f"{split}_dataloader")()


def _trained_on(data: ProbeDataModule) -> set[int]:
    return {prompt for batch in data.train_dataloader() for prompt in batch.group.tolist()}


@pytest.mark.parametrize("residency", ["stream", "memory"])
def test_fewer_training_prompts_are_among_more_with_all_their_seeds(world: World, residency: str) -> None:
    sizes = (1, 4, 9)
    parts = [module(world, train_prompts=size, residency=residency) for size in sizes]
    chosen = [_trained_on(data) for data in parts]
    assert [len(prompts) for prompts in chosen] == [data.sizes["train"] for data in parts] == list(sizes)
    assert chosen[0] < chosen[1] < chosen[2] < _trained_on(module(world))
    assert chosen[1] != _trained_on(module(world, train_prompts=4, seed=1))
    for batch in parts[1].train_dataloader():
        rows = world.arrays[f"{STEP}/x0"][batch.sample_id].float()
        assert torch.equal(batch.features["x0"], rows)
        assert torch.equal(batch.targets[:, 0], torch.from_numpy(world.scores["quality"])[batch.sample_id])
    samples = world.cache.samples
    expected = samples["sample_id"][samples["prompt_id"].isin(chosen[1])].tolist()
    assert sorted(i for batch in parts[1].train_dataloader() for i in batch.sample_id.tolist()) == expected


def test_features_are_standardised_by_what_is_trained_on_and_auc_asks_the_whole_split(world: World) -> None:
    some, everything = module(world, train_prompts=4).statistics(), module(world).statistics()
    assert not torch.equal(some.target_mean, everything.target_mean)
    assert not torch.equal(some.feature_mean["x0"], everything.feature_mean["x0"])
    assert torch.equal(some.target_median, everything.target_median)


def test_more_training_prompts_than_there_are_is_refused(world: World) -> None:
    count = module(world).sizes["train"]
    assert module(world, train_prompts=count).sizes["train"] == count
    with pytest.raises(DataError, match=f"train_prompts={count + 1} is more than the {count} scored prompts"):
        module(world, train_prompts=count + 1)


def test_text_is_that_of_the_prompt(world: World) -> None:
    for residency in ("stream", "memory"):
        for batch in module(world, text_encoder="clip", residency=residency).train_dataloader():
            assert batch.text is not None
            assert batch.tokens is not None
            assert batch.token_mask is not None
            assert torch.equal(batch.text, world.text["embedding"][batch.group].float())
            assert torch.equal(batch.tokens, world.text["tokens"][batch.group].float())
            assert batch.token_mask.dtype == torch.bool
            assert torch.equal(batch.token_mask, world.text["token_mask"][batch.group].bool())
    batch = next(iter(module(world).val_dataloader()))
    assert batch.text is None
    assert batch.tokens is None


def test_auto_chooses_memory_for_what_fits_into_a_quarter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    size = world.arrays[f"{STEP}/x0"].nbytes
    for available, expected in ((4 * size, "memory"), (4 * size - 1, "stream")):
        monkeypatch.setattr(resident, "available_memory", lambda available=available: available)
        assert module(world).residency == expected
    monkeypatch.setattr(resident, "available_memory", lambda: 4 * size)
    assert module(world, rank=0, world_size=2).residency == "stream", "each rank has its own copy"
    assert module(world, residency="memory").residency == "memory"


def test_available_memory_is_plausible() -> None:
    assert 2**20 < resident.available_memory() < 2**50


def test_data_modules_share_resident_arrays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = load_resident(world.cache, [f"{STEP}/{tap}" for tap in TAPS])
    assert shared.nbytes == sum(world.arrays[f"{STEP}/{tap}"].nbytes for tap in TAPS)
    monkeypatch.setattr(type(world.cache), "read", None)  # nothing is read again
    monkeypatch.setattr(type(world.cache), "read_all", None)
    one = module(world, resident=shared, residency="stream")
    two = module(world, resident=shared, taps=list(TAPS), evaluators=["layout"])
    for data in (one, two):
        assert data.residency == "memory"
        for batch in data.train_dataloader():
            assert torch.equal(batch.features["x0"], shared.arrays[f"{STEP}/x0"][batch.sample_id].float())


def test_resident_arrays_of_another_cache_or_without_a_key_are_refused(world: World, build: Build) -> None:
    with pytest.raises(DataError, match=r"do not hold '5/up\.0/attention'"):
        module(world, taps=list(TAPS), resident=load_resident(world.cache, [f"{STEP}/x0"]))
    with pytest.raises(DataError, match="of the cache 'world'"):
        module(world, resident=load_resident(build(seeds=4).cache, [f"{STEP}/x0"]))


def test_a_batch_moves_as_a_whole(world: World) -> None:
    batch = next(iter(module(world, text_encoder="clip").train_dataloader())).to("meta")
    tensors = [*batch.features.values(), batch.targets, batch.group, batch.sample_id, batch.step]
    assert {tensor.device.type for tensor in [*tensors, batch.text, batch.tokens, batch.token_mask]} == {"meta"}
