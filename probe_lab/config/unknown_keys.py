"""Keys that an experiment does not have: what is said of them, and of those that it had once."""

from __future__ import annotations

from dataclasses import fields

from omegaconf import DictConfig

from probe_lab.config.keys import ENTRIES, SWEEP, section
from probe_lab.errors import ConfigError, nearest

FORMER = {
    "select.accept": "no choice was ever sure enough to end early, so leave it out and cut early by a schedule",
    "trainer.strategy": "several trainer.devices always share one training by DDP, so leave it out",
}
"""Keys of earlier versions, and what to do about them."""


def refuse_unknown(content: DictConfig, cls: type, origin: str, prefix: str = "") -> None:
    """ConfigError for a key that a section, and all below it, does not have: the nearest one is named.

    ``cls`` is the dataclass of the section, ``prefix`` its dotted name with a dot behind it.
    """
    names = {entry.name for entry in fields(cls)} | ({SWEEP} if not prefix else set())
    for key in map(str, content):
        if prefix + key in FORMER:
            raise ConfigError(f"'{prefix}{key}' in {origin} is no key any more: {FORMER[prefix + key]}")
        if key not in names:
            raise ConfigError(f"unknown key '{prefix}{key}' in {origin}: {nearest(key, names)}")
        kind, value = section(cls, key), content._get_node(key)
        if kind is not None:
            refuse_unknown(as_section(value, origin, f"{prefix}{key}"), kind, origin, f"{prefix}{key}.")
        elif prefix + key in ENTRIES:
            entries = as_section(value, origin, prefix + key)
            for name in map(str, entries):
                place = f"{prefix}{key}.{name}"
                refuse_unknown(
                    as_section(entries._get_node(name), origin, place), ENTRIES[prefix + key], origin, f"{place}."
                )


def drop_former(content: DictConfig) -> None:
    """Take keys of earlier versions out."""
    for key in FORMER:
        name, _, entry = key.partition(".")
        if isinstance(part := content.get(name), DictConfig):
            part.pop(entry, None)


def as_section(value: object, origin: str, key: str) -> DictConfig:
    """The value of a section. ConfigError where something else stands in its place."""
    if not isinstance(value, DictConfig):
        raise ConfigError(f"'{key}' in {origin} is a section: write '{key}.<key>'")
    return value
