"""The range of every number of an experiment: what is outside would be refused, or never end, only after much work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from probe_lab.config.schema import Experiment
from probe_lab.errors import ConfigError

MOST_CELLS = 100_000
"""Of a sweep; laying them out takes some ten seconds."""
_MOST_SEED = 2**32 - 1
_MOST_SAMPLES = 10**9


@dataclass(frozen=True)
class _Range:
    """From 0 to ``most``. ``positive``: 0 itself is outside; ``below``: ``most`` itself is."""

    most: float
    positive: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        return (value > 0 if self.positive else value >= 0) and (
            value < self.most if self.below else value <= self.most
        )

    @property
    def text(self) -> str:
        most = f"{self.most:,}"
        if self.below:
            return f"it must be {'greater than' if self.positive else 'at least'} 0 and below {most}"
        return f"it must {'be greater than 0' if self.positive else 'not be negative'}, and at most {most}"


def _positive(most: float) -> _Range:
    return _Range(most, positive=True)


_SHARE = _Range(1, below=True)
RANGES: Mapping[str, _Range] = {
    "seed": _Range(_MOST_SEED),
    "prompts.count": _positive(10**8),
    "prompts.seeds": _positive(10**6),
    "sampling.steps": _positive(10_000),
    "sampling.guidance": _Range(10_000),
    "sampling.height": _positive(16_384),
    "sampling.width": _positive(16_384),
    "sampling.batch_size": _positive(65_536),
    "sampling.max_sequence_length": _Range(10**6),
    "capture.tokens": _Range(10**6),
    "capture.size": _Range(16_384),
    "cache.shard_size": _positive(10**6),
    "scoring.batch_size": _positive(65_536),
    "data.batch_prompts": _positive(10**6),
    "data.num_workers": _Range(4_096),
    "probe.width": _positive(65_536),
    "probe.depth": _positive(1_000),
    "probe.shuffles": _positive(10_000),
    "probe.embedding": _positive(65_536),
    "probe.dropout": _SHARE,
    "probe.temperature": _positive(10**6),
    "probe.nce_temperature": _positive(10**6),
    "probe.nce_temperature_ratio": _positive(10**6),
    "probe.margin": _Range(10**6),
    "probe.alignment": _Range(10**9),
    "probe.correlation": _Range(10**9),
    "probe.ema": _SHARE,
    "probe.oversample": _Range(10**6),
    "trainer.max_epochs": _positive(10**6),
    "trainer.learning_rate": _positive(10**9),
    "trainer.weight_decay": _Range(10**9),
    "trainer.gradient_clip": _Range(10**9),
    "trainer.seed": _Range(_MOST_SEED),
    "trainer.devices": _positive(4_096),
    "trainer.accumulate": _positive(10**6),
    "trainer.patience": _Range(10**6),
    "halving.first": _Range(10**6),
    "select.candidates": _positive(10**5),
    "select.keep": _positive(10**5),
    "select.budget": _Range(10**9),
    "tradeoff.prompts": _positive(10**8),
    "tradeoff.thin": _SHARE,
    "tradeoff.timed_prompts": _positive(10**8),
    "tradeoff.rounds": _Range(10_000),
    "engine.cpus": _positive(10_000),
    "engine.gpus": _Range(10_000),
    "workers": _positive(4_096),
}
_GETTERS = {key: attrgetter(key) for key in RANGES}


def require_ranges(experiment: Experiment) -> None:
    """ConfigError for the first number that is out of its range, NaN and infinity among them."""
    for key, limits in RANGES.items():
        value = _GETTERS[key](experiment)
        if not limits.holds(value):
            raise ConfigError(f"'{key}' is {value}: {limits.text}")
    samples = experiment.prompts.count * experiment.prompts.seeds
    if samples > _MOST_SAMPLES:
        raise ConfigError(
            f"'prompts.count' times 'prompts.seeds' is {samples:,}: an experiment has at most {_MOST_SAMPLES:,} images"
        )
    threshold = experiment.metrics.auc_threshold
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"'metrics.auc_threshold' is {threshold}: it must be a finite number, or null for the median")
    limits = _Range(RANGES["select.candidates"].most)
    for key in ("tradeoff.candidates", "tradeoff.timed", "tradeoff.fewer_steps"):
        for number in attrgetter(key)(experiment):
            if not limits.holds(number):
                raise ConfigError(f"'{key}' names {number}: {limits.text}")
