"""The range of every number of an experiment: what is outside would be refused, or never end, only after much work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter

from probe_lab.config.declare import Limits
from probe_lab.config.keys import declarations
from probe_lab.config.schema import Experiment
from probe_lab.errors import ConfigError

MOST_CELLS = 100_000
"""Of a sweep; laying them out takes some ten seconds."""
_MOST_SAMPLES = 10**9
_LIMITED = [(key, entry, attrgetter(key)) for key, entry in declarations().items() if entry.limits]
RANGES: Mapping[str, Limits] = {key: entry.limits for key, entry, _ in _LIMITED if entry.limits}


def require_ranges(experiment: Experiment) -> None:
    """ConfigError for the first number that is out of its range, NaN and infinity among them."""
    for key, entry, value_of in _LIMITED:
        value, limits = value_of(experiment), RANGES[key]
        for number in value if isinstance(value, list) else (value,):
            if not limits.holds(number):
                verb = "names" if isinstance(value, list) else "is"
                raise ConfigError(f"'{key}' {verb} {number}: {limits.text} ({entry.purpose})")
    samples = experiment.prompts.count * experiment.prompts.seeds
    if samples > _MOST_SAMPLES:
        raise ConfigError(
            f"'prompts.count' times 'prompts.seeds' is {samples:,}: an experiment has at most {_MOST_SAMPLES:,} images"
        )
    threshold = experiment.metrics.auc_threshold
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"'metrics.auc_threshold' is {threshold}: it must be a finite number, or null for the median")
