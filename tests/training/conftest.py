"""Experiments on the caches of ``planted_world``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from planted_world import FRACTIONS, make_planted

from probe_lab.cache import Cache
from probe_lab.config import Backbone, CacheConfig, Data, Experiment, ProbeConfig, Trainer


@pytest.fixture(scope="session")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """``planted`` at two steps, of which the first shows half of the signal."""
    return make_planted(tmp_path_factory.mktemp("caches") / "stepped", (2, 5))


@pytest.fixture
def experiment(planted: Cache) -> Experiment:
    """A fast cnn on ``planted``; tests change what they are about with ``probe_of``."""
    return Experiment(
        name="test",
        backbone=Backbone(name="tiny-sd"),
        cache=CacheConfig(root=str(planted.folder.parent), name=planted.folder.name),
        evaluators=["good"],
        data=Data(batch_prompts=8, split=FRACTIONS),
        probe=ProbeConfig(taps=["up/attention", "mid/activation", "x0"], width=16, embedding=16, ema=0.9),
        trainer=Trainer(max_epochs=6, learning_rate=5e-3),
    )


def probe_of(experiment: Experiment, **changes: object) -> Experiment:
    """The experiment with other keys of ``probe``."""
    return replace(experiment, probe=replace(experiment.probe, **changes))  # type: ignore[arg-type]


@pytest.fixture(name="probe_of")
def _probe_of() -> object:
    return probe_of


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
