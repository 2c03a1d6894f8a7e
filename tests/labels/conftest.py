"""Caches of ``smoke`` that labels are made in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from probe_lab.config import Experiment, load_experiment
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation.generate import generate

ScoredSmoke = Callable[[Sequence[str]], Experiment]


@pytest.fixture(scope="module")
def scored_smoke(tmp_path_factory: pytest.TempPathFactory) -> ScoredSmoke:
    """Makes ``smoke`` with these overrides: a cache that has images and scores."""

    def scored(overrides: Sequence[str]) -> Experiment:
        experiment = load_experiment("smoke", [f"cache.root={tmp_path_factory.mktemp('caches')}", *overrides])
        generate(experiment)
        score_cache(experiment.cache_folder, experiment.evaluators)
        return experiment

    return scored


@pytest.fixture
def experiment(made: Experiment, tmp_path: Path) -> Experiment:
    """``made``, as its module has it, with a cache of its own."""
    shutil.copytree(made.cache_folder, tmp_path / "smoke")
    return replace(made, cache=replace(made.cache, root=str(tmp_path)))
