"""The prompts that nothing was trained on or chosen by, and the caches that hold all of their candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.cache.tables import write_table
from probe_lab.capture.prompts import collect_prompts, prompt_table
from probe_lab.config import Experiment, Prompts
from probe_lab.data.splits import splits_of
from probe_lab.errors import SelectError
from probe_lab.probes import load_probe
from probe_lab.probes.transfer import Job, predict_at
from probe_lab.select.tradeoff.policies import Numbers


def held_out_prompts(experiment: Experiment) -> tuple[str, ...]:
    """The first ``tradeoff.prompts`` of the experiment's test split; all, where there are fewer.

    Raises:
        SelectError: there is none.
    """
    return tuple(_held_out(experiment)["prompt"])


def _held_out(experiment: Experiment) -> pd.DataFrame:
    every = prompt_table(collect_prompts(experiment.prompts, experiment.seed))
    found = every[splits_of(every, experiment.data.split) == "test"]
    if found.empty:
        raise SelectError(
            f"none of the {len(every)} prompts of {experiment.name} is in its test split "
            f"({experiment.data.split}): set data.split.test above 0, or prompts.count higher"
        )
    return found.head(experiment.tradeoff.prompts)


def with_all_candidates(
    experiment: Experiment, prompts: Sequence[str], steps: Sequence[int], taps: Sequence[str]
) -> Experiment:
    """The experiment whose cache ``<cache>_tradeoff`` holds the largest number of candidates of these prompts, with
    what is read of them. Its first seeds are those of the experiment's own cache."""
    file = _write_prompts(experiment, prompts)
    seeds = max(experiment.tradeoff.candidates)
    return replace(
        experiment,
        prompts=Prompts(source="file", path=str(file), count=len(prompts), seeds=seeds),
        capture=replace(experiment.capture, steps=sorted(set(steps)), taps=list(dict.fromkeys(taps)), images=True),
        cache=replace(experiment.cache, name=f"{experiment.cache_folder.name}_tradeoff"),
        sweep=(),
    )


def in_fewer_steps(world: Experiment) -> Experiment:
    """The same prompts and seeds in ``tradeoff.fewer_steps`` sampling steps, in a cache of its own."""
    steps = world.tradeoff.fewer_steps
    return replace(
        world,
        sampling=replace(world.sampling, steps=steps),
        probe=replace(world.probe, step=steps, taps=[], scalars=[]),
        capture=replace(world.capture, steps=[steps], taps=["x0"]),
        cache=replace(world.cache, name=f"{world.cache_folder.name}_{steps}steps"),
    )


def _write_prompts(experiment: Experiment, prompts: Sequence[str]) -> Path:
    path = experiment.runs_folder / "tradeoff_prompts.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pa.table({"prompt": list(prompts)}))
    return path


def predictions(cells: Mapping[int, Path], world: Cache, evaluator: str) -> dict[int, Numbers]:
    """What the probes of ``cells`` (by step) predict of every candidate, [prompts, seeds]."""
    found = {}
    everything = world.samples["sample_id"].to_numpy()
    for step, cell in cells.items():
        probe = load_probe(cell)
        scores = predict_at(world, step, [Job(probe, {tap: tap for tap in probe.spec.taps})], everything)[0]
        found[step] = by_prompt(world, scores[:, probe.spec.evaluators.index(evaluator)])
    return found


def by_prompt(world: Cache, values: NDArray[np.float32]) -> Numbers:
    """Values by sample id as [prompts, seeds]."""
    return np.asarray(values, dtype=np.float64).reshape(-1, world.manifest.seeds)
