"""From an experiment file and ``key=value`` overrides to a checked ``Experiment``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from probe_lab.config.checks import check
from probe_lab.config.keys import ENTRIES, SWEEP, section
from probe_lab.config.repeats import check_axes
from probe_lab.config.schema import Experiment, Schema
from probe_lab.config.sweep import Sweep, overridden, read_sweep, require_option
from probe_lab.errors import ConfigError, nearest

EXPERIMENTS = Path("experiments")
SHIPPED = Path(__file__).parents[2] / "experiments"
"""Those of the checkout, also when a command is started in another folder."""


def load_experiment(name: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file, or the one of that name in ``experiments/``, with ``key=value`` overrides.

    Raises:
        ConfigError: no such file, broken YAML, an unknown key, a wrong type or an impossible value.
    """
    path = _find(Path(name))
    parts = [text for text in overrides or [] if text.startswith(f"{SWEEP}.")]
    for text in parts:
        require_option(text)
    try:
        content = OmegaConf.load(path)
        changes = _read([text for text in overrides or [] if text not in parts], parts)
    except Exception as error:  # YAML errors come from another library and in many classes
        raise ConfigError(f"{path} or its overrides cannot be read: {_one_line(error)}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} holds no keys: an experiment is a YAML mapping, see experiments/quickstart.yaml")
    experiment = build_experiment(content, changes, origin=str(path), default_name=path.stem)
    return dataclasses.replace(experiment, asked=(str(name), *(overrides or [])))


def build_experiment(
    content: DictConfig, changes: DictConfig, *, origin: str = "the experiment", default_name: str = ""
) -> Experiment:
    """Merge file content and overrides into a checked ``Experiment``; see ``load_experiment``."""
    experiment = merged(content, changes, origin=origin, default_name=default_name)
    check(experiment)
    check_axes(experiment)
    return experiment


def merged(content: DictConfig, changes: DictConfig, *, origin: str, default_name: str = "") -> Experiment:
    """``build_experiment`` without the check of limits."""
    for part in (content, changes):
        if isinstance(part.get("backbone"), str):
            part["backbone"] = {"name": part["backbone"], "family": "", "path": ""}
        elif isinstance(part.get("backbone"), DictConfig) and "family" in part["backbone"]:
            part["backbone"] = {"name": "", **part["backbone"]}  # it replaces a built-in one of the file
    _refuse_unknown(content, Schema, origin)
    _refuse_unknown(changes, Schema, "the overrides")
    try:
        keys = cast(DictConfig, OmegaConf.merge(*map(_without_sweep, (content, changes))))
        sweep = _sweep(content, changes, keys)
        typed = OmegaConf.merge(OmegaConf.structured(Schema), _without_sweep(keys))
        schema = cast(Schema, OmegaConf.to_object(typed))
    except OmegaConfBaseException as error:
        raise not_valid("", origin, error) from error
    values = {f.name: getattr(schema, f.name) for f in fields(Schema)}
    values |= {"sweep": sweep.grids, "only": sweep.select, "sets": sweep.sets}
    return Experiment(**values | {"name": schema.name or default_name})


def not_valid(key: str, origin: str, error: Exception) -> ConfigError:
    """The sentence for a value that is not of its key's type."""
    key = key or getattr(error, "full_key", None) or "a key"
    return ConfigError(f"'{key}' in {origin} is not valid: {_one_line(error)}")


def _read(overrides: list[str], parts: list[str]) -> DictConfig:
    """Overrides as nested keys; those of ``parts`` of the sweep lie over a whole one, wherever they stand."""
    changes = OmegaConf.from_dotlist([_quoted(text) for text in overrides])
    if parts:
        said = OmegaConf.from_dotlist([_quoted(text) for text in parts])[SWEEP]
        changes[SWEEP] = overridden(_plain(changes[SWEEP]), _plain(said)) if SWEEP in changes else said
    return changes


def _quoted(text: str) -> str:
    key, equals, value = text.partition("=")
    if key == f"{SWEEP}.select":  # it begins as YAML and is none
        return f"{key}={json.dumps(value)}"
    return f"{text}''" if equals and not value else text  # "key=" means the empty string, not YAML's null


def _sweep(content: DictConfig, changes: DictConfig, keys: DictConfig) -> Sweep:
    """The sweeps of the file and of the overrides as one; what they refer to are ``keys``."""
    found: object = None
    for number, part in enumerate((content, changes)):
        if SWEEP not in part:
            continue
        keys[SWEEP] = part._get_node(SWEEP)
        plain = _plain(keys[SWEEP])
        found = overridden(found, plain) if number else plain
    return read_sweep(found)


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _without_sweep(content: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(content, [str(key) for key in content if key != SWEEP])


def _find(name: Path) -> Path:
    for candidate in [name, EXPERIMENTS / name, EXPERIMENTS / f"{name}.yaml", SHIPPED / f"{name}.yaml"]:
        if candidate.is_file():
            return candidate
    known = {
        str(path.relative_to(folder).with_suffix(""))
        for folder in (EXPERIMENTS, SHIPPED)
        for path in folder.rglob("*.yaml")
    }
    raise ConfigError(f"there is no experiment '{name}': {nearest(str(name), known)}")


def _refuse_unknown(content: DictConfig, cls: type, origin: str, prefix: str = "") -> None:
    names = {entry.name for entry in fields(cls)} | ({SWEEP} if not prefix else set())
    for key in map(str, content):
        if key not in names:
            raise ConfigError(f"unknown key '{prefix}{key}' in {origin}: {nearest(key, names)}")
        kind, value = section(cls, key), content._get_node(key)
        if kind is not None:
            _refuse_unknown(_as_section(value, origin, f"{prefix}{key}"), kind, origin, f"{prefix}{key}.")
        elif prefix + key in ENTRIES:
            entries = _as_section(value, origin, prefix + key)
            for name in map(str, entries):
                place = f"{prefix}{key}.{name}"
                _refuse_unknown(
                    _as_section(entries._get_node(name), origin, place), ENTRIES[prefix + key], origin, f"{place}."
                )


def _as_section(value: object, origin: str, key: str) -> DictConfig:
    if not isinstance(value, DictConfig):
        raise ConfigError(f"'{key}' in {origin} is a section: write '{key}.<key>'")
    return value


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
