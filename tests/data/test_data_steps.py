"""Batches of several steps: every prompt at one of them in an epoch, at all of them in validation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from data_world import STEP, TAPS, World
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.data import Batch, ProbeDataModule, SplitFractions, load_resident
from probe_lab.data.sample_order import steps_of
from probe_lab.errors import DataError

STEPS = (1, STEP)
FRACTIONS = SplitFractions(0.6, 0.2, 0.2)


def module(world: World, **changes: Any) -> ProbeDataModule:
    values: dict[str, Any] = {
        "step": STEP,
        "steps": STEPS,
        "taps": list(TAPS),
        "evaluators": ["quality"],
        "batch_prompts": 4,
        "fractions": FRACTIONS,
        "residency": "stream",
    }
    return ProbeDataModule(world.cache, **(values | changes))


def check_content(world: World, batch: Batch) -> None:
    """Every sample has the arrays of its own step, and the prompt's samples the same one."""
    for row, (sample, step) in enumerate(zip(batch.sample_id.tolist(), batch.step.tolist(), strict=True)):
        for tap in TAPS:
            assert torch.equal(batch.features[tap][row], world.arrays[f"{step}/{tap}"][sample].float())
    assert all(len(batch.step[batch.group == group].unique()) == 1 for group in batch.group.unique())


@given(
    groups=st.integers(0, 40),
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 5),
)
def test_every_group_goes_through_all_steps_in_turn(groups: int, steps: list[int], seed: int) -> None:
    epochs = np.array([steps_of(groups, steps, seed=seed, epoch=epoch) for epoch in range(len(steps))])
    assert all(sorted(column) == sorted(steps) for column in epochs.T)
    for epoch in epochs:
        often = [int((epoch == step).sum()) for step in steps]
        assert max(often) - min(often) <= 1
    again = steps_of(groups, steps, seed=seed, epoch=len(steps))
    assert np.array_equal(again, epochs[0])


@pytest.mark.parametrize(("residency", "num_workers"), [("stream", 0), ("stream", 2), ("memory", 0)])
def test_training_sees_each_prompt_at_one_step_an_epoch(world: World, residency: str, num_workers: int) -> None:
    data = module(world, residency=residency, num_workers=num_workers)
    seen = Counter[tuple[int, int]]()
    for epoch in range(2):
        data.set_epoch(epoch)
        batches = list(data.train_dataloader())
        assert len({step for batch in batches for step in batch.step.tolist()}) == 2
        for batch in batches:
            check_content(world, batch)
            seen.update(zip(batch.sample_id.tolist(), batch.step.tolist(), strict=True))
    train = world.split("train", FRACTIONS)
    assert seen == Counter({(sample, step): 1 for sample in train for step in STEPS})


def test_ranks_agree_on_the_steps_of_an_epoch(world: World) -> None:
    alone = {
        s: t
        for b in module(world).train_dataloader()
        for s, t in zip(b.sample_id.tolist(), b.step.tolist(), strict=True)
    }
    parts: dict[int, int] = {}
    for rank in range(2):
        for batch in module(world, rank=rank, world_size=2, batch_prompts=2).train_dataloader():
            parts |= zip(batch.sample_id.tolist(), batch.step.tolist(), strict=True)
    assert parts == alone


def test_validation_has_every_prompt_at_every_step_and_evaluation_at_one(world: World) -> None:
    data = module(world, residency="memory")
    expected = [(sample, step) for step in STEPS for sample in world.split("val", FRACTIONS)]
    batches = list(data.val_dataloader())
    assert len(batches) == len(data.val_dataloader())
    for batch in batches:
        check_content(world, batch)
    assert [pair for b in batches for pair in zip(b.sample_id.tolist(), b.step.tolist(), strict=True)] == expected
    at_one = list(data.evaluation_dataloader("test"))
    assert [sample for batch in at_one for sample in batch.sample_id.tolist()] == world.split("test", FRACTIONS)
    assert {step for batch in at_one for step in batch.step.tolist()} == {STEP}
    assert {step for loader in data.predict_dataloader() for batch in loader for step in batch.step.tolist()} == {STEP}


def test_statistics_are_of_all_steps(world: World) -> None:
    train, found = world.split("train", FRACTIONS), module(world).statistics()
    for tap in TAPS:
        values = torch.cat([world.arrays[f"{step}/{tap}"][train].double() for step in STEPS])
        torch.testing.assert_close(found.feature_mean[tap].double(), values.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
        expected = values.std((0, 2, 3), correction=0)
        torch.testing.assert_close(found.feature_std[tap].double()[1:], expected[1:], atol=1e-5, rtol=1e-4)


def test_a_step_that_is_not_there_is_refused_and_shared_arrays_have_to_hold_all(world: World) -> None:
    with pytest.raises(DataError, match="has no step 3: choose one of 1, 5"):
        module(world, steps=(3, STEP))
    part = load_resident(world.cache, [f"{STEP}/{tap}" for tap in TAPS])
    with pytest.raises(DataError, match=r"do not hold '1/up\.0/attention'"):
        module(world, resident=part)
    whole = load_resident(world.cache, [f"{step}/{tap}" for step in STEPS for tap in TAPS])
    check_content(world, next(iter(module(world, resident=whole).train_dataloader())))
