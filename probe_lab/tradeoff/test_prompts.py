"""The prompts that nothing was trained on or chosen by, and the caches that hold all of their candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.cache.tables import write_table
from probe_lab.config import Experiment, Prompts
from probe_lab.data.splits import Split, splits_of
from probe_lab.errors import SelectError
from probe_lab.generation.prompts import collect_prompts, prompt_table
from probe_lab.metrics.per_prompt import Floats
from probe_lab.probes import load_probe
from probe_lab.probes.applied_elsewhere import ProbeReading, predict_at

_SPLITS: Mapping[Split, str] = {"train": "training", "val": "validation", "test": "test"}


def held_out_prompts(experiment: Experiment) -> tuple[str, ...]:
    """The first ``tradeoff.prompts`` of the experiment's test split; all, where there are fewer.

    Raises:
        SelectError: there is none.
    """
    return prompts_of(experiment, "test", experiment.tradeoff.prompts)


def prompts_of(experiment: Experiment, split: Split, count: int, otherwise: str = "") -> tuple[str, ...]:
    """The first ``count`` of any split, as ``held_out_prompts``; ``otherwise`` ends what its error advises."""
    every = prompt_table(collect_prompts(experiment.prompts, experiment.seed))
    own = every[splits_of(every, experiment.data.split) == split]
    if own.empty:
        raise SelectError(
            f"none of the {len(every)} prompts of {experiment.name} is in its {_SPLITS[split]} split "
            f"({experiment.data.split}): set data.split.{split} above 0, or prompts.count higher{otherwise}"
        )
    return tuple(own.head(count)["prompt"])


def step_counts(experiment: Experiment) -> tuple[int, ...]:
    """Fewer than all, of the rival that finishes all candidates and of plans, in order."""
    return tuple(sorted(steps for steps in experiment.tradeoff.fewer_steps if steps))


def with_all_candidates(
    experiment: Experiment, prompts: Sequence[str], steps: Sequence[int], taps: Sequence[str]
) -> Experiment:
    """The experiment whose cache ``<cache>_tradeoff`` holds the largest number of candidates of these prompts, with
    what is read of them. Its first seeds are those of the experiment's own cache."""
    return _world(experiment, "tradeoff", prompts, max(experiment.tradeoff.candidates), steps, taps)


def for_validation(experiment: Experiment, prompts: Sequence[str], step: int, taps: Sequence[str]) -> Experiment:
    """The experiment whose cache ``<cache>_tradeoff_val`` holds these prompts with the experiment's own seeds, and what
    is read of them at ``step``."""
    return _world(experiment, "tradeoff_val", prompts, experiment.prompts.seeds, [step], taps)


def for_plans(experiment: Experiment, prompts: Sequence[str], step: int, taps: Sequence[str]) -> Experiment:
    """As ``with_all_candidates``, of validation prompts: ``<cache>_tradeoff_plans``."""
    return _world(experiment, "tradeoff_plans", prompts, max(experiment.tradeoff.candidates), [step], taps)


def _world(
    experiment: Experiment, suffix: str, prompts: Sequence[str], seeds: int, steps: Sequence[int], taps: Sequence[str]
) -> Experiment:
    file = _write_prompts(experiment, f"{suffix}_prompts.parquet", prompts)
    return replace(
        experiment,
        prompts=Prompts(source="file", path=str(file), count=len(prompts), seeds=seeds),
        capture=replace(experiment.capture, steps=sorted(set(steps)), taps=list(dict.fromkeys(taps)), images=True),
        cache=replace(experiment.cache, name=f"{experiment.cache_folder.name}_{suffix}"),
        sweep=(),
    )


def in_fewer_steps(world: Experiment, steps: int, cut: int, taps: Sequence[str]) -> Experiment:
    """The same prompts and seeds in so many sampling steps, with what is read of them at call ``cut``, in a cache of
    its own."""
    return replace(
        world,
        sampling=replace(world.sampling, steps=steps),
        probe=replace(world.probe, step=cut, taps=[], scalars=[]),
        capture=replace(world.capture, steps=[cut], taps=list(dict.fromkeys(taps))),
        cache=replace(world.cache, name=f"{world.cache_folder.name}_{steps}steps"),
    )


def _write_prompts(experiment: Experiment, name: str, prompts: Sequence[str]) -> Path:
    path = experiment.runs_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pa.table({"prompt": list(prompts)}))
    return path


def predictions(cells: Mapping[int, Path], world: Cache, evaluator: str) -> dict[int, Floats]:
    """What the probes of ``cells`` (by step, a call of the world's sampler) predict of every candidate, [prompts,
    seeds]."""
    found = {}
    everything = world.samples["sample_id"].to_numpy()
    for step, cell in cells.items():
        probe = load_probe(cell)
        reading = ProbeReading(probe, {tap: tap for tap in probe.spec.taps})
        scores = predict_at(world, step, [reading], everything, told=probe.spec.step)[0]
        found[step] = by_prompt(world, scores[:, probe.spec.evaluators.index(evaluator)])
    return found


def by_prompt(world: Cache, values: NDArray[np.float32]) -> Floats:
    """Values by sample id as [prompts, seeds]."""
    return np.asarray(values, dtype=np.float64).reshape(-1, world.manifest.seeds)
