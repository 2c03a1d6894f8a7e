"""What the shell offers while a command is typed."""

from __future__ import annotations


def experiments(incomplete: str) -> list[str]:
    """The experiments whose names begin so."""
    from probe_lab.config.load import experiment_names

    return sorted(name for name in experiment_names() if name.startswith(incomplete))


def keys(incomplete: str) -> list[str]:
    """The keys and sections of an experiment that begin so."""
    from probe_lab.config.keys import known_keys

    return sorted(name for name in known_keys() if name.startswith(incomplete))
