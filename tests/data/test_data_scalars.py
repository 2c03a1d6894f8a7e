"""Scalars in batches are those of their samples, streamed and resident; incomplete ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from data_world import STEP, Build, World

from probe_lab.cache import write_scores
from probe_lab.cache.layout import PreviewOf
from probe_lab.data import ProbeDataModule, SplitFractions
from probe_lab.data.scalar_table import scalar_table, stored_previews
from probe_lab.errors import ScoreError

THIRDS = SplitFractions(0.4, 0.3, 0.3)
SCALARS = ["preview:layout", "preview:quality"]


def previewed(world: World, samples: range | None = None) -> World:
    ids = np.asarray(samples if samples is not None else range(len(world.cache.samples)))
    for sign, name in ((1, "quality"), (-1, "layout")):
        write_scores(world.cache.folder, name, ids, sign * ids, metadata={"version": "1"}, of=PreviewOf(STEP))
    return world


def module(world: World, **changes: object) -> ProbeDataModule:
    values = {"step": STEP, "taps": ["x0"], "evaluators": ["quality"], "batch_prompts": 4, "fractions": THIRDS}
    return ProbeDataModule(world.cache, **(values | {"scalars": SCALARS} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("residency", ["stream", "memory"])
def test_a_batch_has_the_scalars_of_its_samples(build: Build, residency: str) -> None:
    data = module(previewed(build()), residency=residency)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch.scalars is not None
            assert batch.scalars[:, 0].tolist() == (-batch.sample_id.float()).tolist()
            assert batch.to("cpu").scalars[:, 1].tolist() == batch.sample_id.float().tolist()  # type: ignore[index]
    scalars, targets, prompt = data.scalars_of("train")
    assert scalars.shape == (len(targets), 2)
    assert prompt.tolist() == sorted(list(range(len(targets) // 3)) * 3)
    assert sorted(scalars[:, 1].tolist()) == sorted(s for b in data.train_dataloader() for s in b.sample_id.tolist())


def test_without_scalars_there_are_none(build: Build) -> None:
    assert next(iter(module(build(), scalars=[]).val_dataloader())).scalars is None


def test_missing_scalars_are_refused(build: Build) -> None:
    world = build()
    with pytest.raises(ScoreError, match=rf"no scores of 'layout' for the previews at step {STEP}.*probe-lab score"):
        module(world)
    assert stored_previews(world.cache, STEP, ["quality"]) is None
    with pytest.raises(ScoreError, match=r"10 of 90 samples.*resumes"):
        module(previewed(world, range(80)))
    assert stored_previews(world.cache, STEP, ["quality"]) is None
    previewed(world)
    assert scalar_table(world.cache, STEP, SCALARS).shape == (90, 2)
    assert stored_previews(world.cache, STEP, ["quality"]) is not None


def test_samples_of_incomplete_shards_need_none(build: Build) -> None:
    world = build(skip_shards=(7,))
    previewed(world, range(84))
    assert scalar_table(world.cache, STEP, SCALARS)[84:].isnan().all()
    assert all(batch.scalars.isfinite().all() for batch in module(world).train_dataloader())  # type: ignore[union-attr]
