from __future__ import annotations

import numpy as np
import pytest
import torch
from data_world import STEP, TAPS, Build, World

from probe_lab.data import ProbeDataModule, SplitFractions, Statistics

THIRDS = SplitFractions(0.6, 0.2, 0.2)


def statistics(world: World, residency: str = "stream", batch_prompts: int = 4) -> Statistics:
    return ProbeDataModule(
        world.cache,
        step=STEP,
        taps=list(TAPS),
        evaluators=["quality", "layout"],
        fractions=THIRDS,
        batch_prompts=batch_prompts,
        residency=residency,  # type: ignore[arg-type]
        oversample=2.0,
        rank=1,
        world_size=2,
    ).statistics()


@pytest.mark.parametrize("residency", ["stream", "memory"])
def test_they_are_those_of_numpy_over_the_whole_training_split(world: World, residency: str) -> None:
    found = statistics(world, residency)
    train = world.split("train", THIRDS)
    for tap, (channels, *_) in TAPS.items():
        values = world.arrays[f"{STEP}/{tap}"][train].double().numpy()
        std = values.std(axis=(0, 2, 3))
        std[0] = 1.0  # the constant channel
        assert found.feature_mean[tap].shape == (channels,)
        np.testing.assert_allclose(found.feature_mean[tap], values.mean(axis=(0, 2, 3)), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.feature_std[tap], std, rtol=1e-6)
    scores = np.stack([world.scores["quality"], world.scores["layout"]], axis=1)[train].astype(np.float64)
    np.testing.assert_allclose(found.target_mean, scores.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.target_std, scores.std(0), rtol=1e-6)
    np.testing.assert_allclose(found.target_median, np.median(scores, 0), rtol=1e-6)


def test_they_do_not_depend_on_the_size_of_a_batch(world: World) -> None:
    small, large = statistics(world, batch_prompts=2), statistics(world, batch_prompts=30)
    for tap in TAPS:
        torch.testing.assert_close(small.feature_mean[tap], large.feature_mean[tap], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(small.feature_std[tap], large.feature_std[tap], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("residency", ["stream", "memory"])
def test_rows_of_val_and_test_do_not_reach_them(world: World, build: Build, residency: str) -> None:
    others = [*world.split("val", THIRDS), *world.split("test", THIRDS)]
    changed = build(shift=dict.fromkeys(others, 100.0), missing=tuple(others[::5]))
    found, before = statistics(changed, residency), statistics(world, residency)
    for tap in TAPS:
        assert torch.equal(found.feature_mean[tap], before.feature_mean[tap])
        assert torch.equal(found.feature_std[tap], before.feature_std[tap])
    assert torch.equal(found.target_mean, before.target_mean)
    train = world.split("train", THIRDS)
    moved = statistics(build(shift={train[0]: 1.0}), residency)
    assert not torch.equal(moved.feature_mean["x0"], before.feature_mean["x0"]), "the test can fail"


def test_a_large_mean_does_not_swallow_the_spread(build: Build) -> None:
    world = build(dtype="float32", shift=dict.fromkeys(range(90), 1e4))
    found = statistics(world)
    values = world.arrays[f"{STEP}/x0"][world.split("train", THIRDS)].double().numpy()
    np.testing.assert_allclose(found.feature_std["x0"][1], values.std(axis=(0, 2, 3))[1], rtol=1e-6)
