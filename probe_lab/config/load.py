"""From an experiment file and ``key=value`` overrides to a checked ``Experiment``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from probe_lab.config.checks import check
from probe_lab.config.schema import Axis, EvaluatorModel, Experiment, Schema
from probe_lab.errors import ConfigError, nearest

EXPERIMENTS = Path("experiments")
SHIPPED = Path(__file__).parents[2] / "experiments"
"""Those of the checkout, also when a command is started in another folder."""

ENTRIES: Mapping[str, type] = {"scoring.models": EvaluatorModel}
"""Keys that hold sections by names of the user's choice."""


def load_experiment(name: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file, or the one of that name in ``experiments/``, with ``key=value`` overrides.

    Raises:
        ConfigError: no such file, broken YAML, an unknown key, a wrong type or an impossible value.
    """
    path = _find(Path(name))
    try:
        content = OmegaConf.load(path)
        # "key=" means the empty string, not YAML's null.
        changes = OmegaConf.from_dotlist([f"{text}''" if text.endswith("=") else text for text in overrides or []])
    except Exception as error:  # YAML errors come from another library and in many classes
        raise ConfigError(f"{path} or its overrides cannot be read: {_one_line(error)}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} holds no keys: an experiment is a YAML mapping, see experiments/quickstart.yaml")
    return build_experiment(content, changes, origin=str(path), default_name=path.stem)


def build_experiment(
    content: DictConfig, changes: DictConfig, *, origin: str = "the experiment", default_name: str = ""
) -> Experiment:
    """Merge file content and overrides into a checked ``Experiment``; see ``load_experiment``."""
    for part in (content, changes):
        if isinstance(part.get("backbone"), str):
            part["backbone"] = {"name": part["backbone"], "family": "", "path": ""}
        elif isinstance(part.get("backbone"), DictConfig) and "family" in part["backbone"]:
            part["backbone"] = {"name": "", **part["backbone"]}  # it replaces a built-in one of the file
    _refuse_unknown(content, Experiment, origin)
    _refuse_unknown(changes, Experiment, "the overrides")
    try:
        if "sweep" in changes:  # a sweep replaces the file's, whose grids it could not be merged with
            content = OmegaConf.masked_copy(content, [str(key) for key in content if key != "sweep"])
        merged = cast(DictConfig, OmegaConf.merge(content, changes))
        sweep = _grids(merged.pop("sweep", None))
        typed = OmegaConf.merge(OmegaConf.structured(Schema), merged)
        schema = cast(Schema, OmegaConf.to_object(typed))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        raise ConfigError(f"'{key}' in {origin} is not valid: {_one_line(error)}") from error
    values = {f.name: getattr(schema, f.name) for f in fields(schema)}
    values |= {"sweep": sweep, "name": schema.name or default_name}
    experiment = Experiment(**values)
    check(experiment)
    return experiment


def with_changes(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with some keys (dotted names) set to other values, checked again; its sweep is dropped.

    A single string for a key that holds a list is a list of one: a sweep over ``probe.taps`` may name plain taps.
    """
    content = OmegaConf.create(experiment.to_dict() | {"sweep": []})
    update = OmegaConf.create({})
    for key, value in changes.items():
        one_of_a_list = isinstance(value, str) and isinstance(OmegaConf.select(content, key), ListConfig)
        OmegaConf.update(update, key, [value] if one_of_a_list else value, force_add=True)
    return build_experiment(content, update, origin=f"a cell of {experiment.name}")


def known_keys(cls: type = Experiment, prefix: str = "") -> set[str]:
    """Every dotted key of an experiment, sections included."""
    keys: set[str] = set()
    for entry in fields(cls):
        keys.add(prefix + entry.name)
        kind = _section(cls, entry.name)
        if kind is not None:
            keys |= known_keys(kind, f"{prefix}{entry.name}.")
    return keys


def _section(cls: type, name: str) -> type | None:
    """The dataclass that a field holds, or None for a plain value."""
    default = getattr(cls(), name)
    return type(default) if is_dataclass(default) else None


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
    names = {entry.name for entry in fields(cls)}
    for key in map(str, content):
        if key not in names:
            raise ConfigError(f"unknown key '{prefix}{key}' in {origin}: {nearest(key, names)}")
        kind, value = _section(cls, key), content._get_node(key)
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


def _grids(sweep: DictConfig | ListConfig | None) -> tuple[Mapping[str, Axis], ...]:
    """One mapping, or a list of mappings, from dotted key to its list of values."""
    content = OmegaConf.to_container(sweep, resolve=True) if sweep is not None else []
    grids: list[dict[str, Axis]] = []
    known = known_keys()
    for grid in content if isinstance(content, list) else [content]:
        if not isinstance(grid, dict):
            raise ConfigError(f"'sweep' holds '{grid!s}': it is a mapping, or a list of mappings, from key to values")
        for key, values in grid.items():
            if key not in known:
                raise ConfigError(f"unknown key '{key!s}' in sweep: {nearest(str(key), known)}")
            if not isinstance(values, list) or not values:
                raise ConfigError(f"the sweep over '{key!s}' holds '{values}': write a list with at least one value")
        grids.append({str(key): tuple(values) for key, values in grid.items()})
    return tuple(grids)


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
