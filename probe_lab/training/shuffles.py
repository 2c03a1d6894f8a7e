"""Shuffled labels: the control that a probe has learned something of its prompts' images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import SplitFractions, prompt_groups
from probe_lab.probes.kinds import kind_of

_APART = 10_007
"""Between the seeds of two shuffles: the training seeds of a sweep shall not meet them."""


def shuffled(cache: Cache, evaluators: Sequence[str], fractions: SplitFractions, seed: int) -> Tensor:
    """Labels ``[samples, E]`` with the rows of the training split permuted among each other, and those of
    validation.

    Validation too, because it chooses the epoch: true labels there would choose the weights that happen to be
    right. NaN in the test split.
    """
    groups = prompt_groups(cache, evaluators, fractions)
    labels = torch.full((len(cache.samples), len(evaluators)), torch.nan)
    generator = torch.Generator().manual_seed(seed)
    for split in (groups["train"], groups["val"]):
        order = torch.randperm(len(split.sample_id), generator=generator)
        labels[torch.from_numpy(split.sample_id)] = torch.from_numpy(split.targets)[order]
    return labels


def other_shuffles(experiment: Experiment) -> list[Experiment]:
    """What a model of shuffled labels trains beside the first: the same with other permutations and training seeds;
    nothing of another model."""
    if not kind_of(experiment.probe.model).shuffled:
        return []
    seeds = (experiment.trainer.seed + _APART * i for i in range(1, experiment.probe.shuffles))
    return [replace(experiment, trainer=replace(experiment.trainer, seed=seed)) for seed in seeds]
