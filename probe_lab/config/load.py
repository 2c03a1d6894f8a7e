"""From an experiment file and ``key=value`` overrides to a checked ``Experiment``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from probe_lab.config.checks import check, check_axis_names, require_probe_step
from probe_lab.config.document import DEFAULTS, OVERRIDES, Document, read_document, read_value
from probe_lab.config.duplicates import check_axes
from probe_lab.config.environment import Written, without_values, written_texts
from probe_lab.config.includes import laid_over, read_documents
from probe_lab.config.key_types import OPEN, hint_at, is_section
from probe_lab.config.keys import SWEEP
from probe_lab.config.schema import BACKBONE, Experiment, Schema
from probe_lab.config.sweep import Sweep, overridden, read_sweep, require_option
from probe_lab.config.unknown_keys import drop_former, refuse_unknown
from probe_lab.errors import ConfigError, nearest
from probe_lab.registry import import_file

EXPERIMENTS = Path("experiments")
PLUGINS = "plugins"
SHIPPED = Path(__file__).parents[2] / "experiments"
"""Those of the checkout, also when a command is started in another folder."""


def load_experiment(name: str | Path, overrides: list[str] | None = None, *, stored: bool = False) -> Experiment:
    """Read an experiment file, or the one of that name in ``experiments/``, with ``key=value`` overrides.

    ``stored``: the file is a cell's, whose keys of earlier versions are passed over; elsewhere they are refused.

    Raises:
        ConfigError: no such file, broken YAML, an unknown key, a wrong type or an impossible value.
    """
    path = _find(Path(name))
    document = read_document(path) if stored else _with_included(path)
    changes = read_overrides(overrides or [])
    content = _created(document)
    if stored:
        drop_former(content)
    try:
        if not stored:
            _import_plugins(content, changes, path.parent)
        experiment = build_experiment(content, changes, origin=str(path), default_name=path.stem)
        if any(OmegaConf.select(part, "probe.step") is not None for part in (content, changes)):
            require_probe_step(experiment)
    except ConfigError as error:
        sentence = _with_line(str(error), document, changes)
        raise ConfigError(without_values(sentence, str(document.content), *(overrides or []))) from error
    return dataclasses.replace(experiment, asked=(str(name), *(overrides or [])))


def _import_plugins(content: DictConfig, changes: DictConfig, folder: Path) -> None:
    """What the experiment names may be in its plugins; their type is checked with that of all other keys."""
    plugins = (changes if PLUGINS in changes else content).get(PLUGINS)
    for name in plugins if isinstance(plugins, ListConfig) else ():
        import_file(folder / str(name))


def _with_included(path: Path) -> Document:
    """A file and those that it includes, as one document; ConfigError for a key of one of them that there is not."""
    *included, own = read_documents(path)
    content: dict[str, Any] = {}
    places: dict[str, str] = {}
    for document in included:
        keys = _created(document)
        _write_out_backbone(keys)
        refuse_unknown(keys, Schema, document.origin)
        content = laid_over(content, document.content)
        places |= document.places
    return Document(own.origin, laid_over(content, own.content), places | own.places)


def _created(document: Document) -> DictConfig:
    try:
        return OmegaConf.create(document.content)
    except OmegaConfBaseException as error:
        raise not_valid("", document.origin, error) from error


def build_experiment(
    content: DictConfig, changes: DictConfig, *, origin: str = "the experiment", default_name: str = ""
) -> Experiment:
    """Merge file content and overrides into a checked ``Experiment``; see ``load_experiment``."""
    experiment = merged(content, changes, origin=origin, default_name=default_name)
    check(experiment)
    check_axes(experiment)
    check_axis_names(experiment)
    return experiment


def merged(content: DictConfig, changes: DictConfig, *, origin: str, default_name: str = "") -> Experiment:
    """``build_experiment`` without the check of limits."""
    for part in (content, changes):
        _write_out_backbone(part)
    refuse_unknown(content, Schema, origin)
    refuse_unknown(changes, Schema, OVERRIDES)
    try:
        keys = cast(DictConfig, OmegaConf.merge(*map(_without_sweep, (content, changes))))
        sweep = _sweep(content, changes, keys)
        typed = OmegaConf.merge(_typed_keys(), _without_sweep(keys))
        schema = cast(Schema, OmegaConf.to_object(typed))
    except (OmegaConfBaseException, RecursionError) as error:
        raise not_valid("", origin, error) from error
    values = {f.name: getattr(schema, f.name) for f in fields(Schema)}
    values |= {"sweep": sweep.grids, "only": sweep.select, "sets": sweep.sets}
    values |= {"name": schema.name or default_name, "written": _written(keys)}
    return Experiment(**values)


@functools.cache
def _typed_keys() -> DictConfig:
    """All keys with their types and defaults, which merging copies: to make them takes half the time of a file."""
    return cast(DictConfig, OmegaConf.structured(Schema))


def _written(keys: DictConfig) -> Written:
    raw = cast(dict[str, Any], OmegaConf.to_container(keys, resolve=False))
    if "oc.env" not in str(raw):
        return {}
    return written_texts(raw, _plain(keys))


def not_valid(key: str, origin: str, error: Exception) -> ConfigError:
    """The sentence for a value that is not of its key's type."""
    key = key or getattr(error, "full_key", None) or "a key"
    return ConfigError(f"'{key}' in {origin} is not valid: {_one_line(error)}")


def read_overrides(overrides: Sequence[str]) -> DictConfig:
    """Overrides as nested keys; those of parts of the sweep lie over a whole one, wherever they stand.

    Raises:
        ConfigError: no ``key=value``, a key within a list or a plain value, or a value that its key cannot hold.
    """
    changes, parts = OmegaConf.create({}), OmegaConf.create({})
    for text in overrides:
        if text.startswith(f"{SWEEP}."):
            require_option(text)
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"'{text}' is no override: write KEY=VALUE")
        key = key.replace("[", ".").replace("]", "").strip()
        if key == DEFAULTS:
            raise ConfigError(f"'{text}' includes a file in {OVERRIDES}: name it in '{DEFAULTS}' of an experiment file")
        _require_whole(key, value)
        content = read_value(key, value)
        try:
            into = parts if key.startswith(f"{SWEEP}.") else changes
            OmegaConf.update(into, key, _named(content) if key == BACKBONE else content, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, AssertionError) as error:
            raise not_valid(key, OVERRIDES, error) from error
    if parts:
        changes[SWEEP] = overridden(_plain(changes[SWEEP]), _plain(parts[SWEEP])) if SWEEP in changes else parts[SWEEP]
    return changes


def _require_whole(key: str, value: str) -> None:
    """ConfigError for a key within a list or within a plain value."""
    names = key.split(".")
    for length in range(1, len(names)) if names[0] != SWEEP else ():
        outer, hint = ".".join(names[:length]), hint_at(names[:length])
        if get_origin(hint) is list:
            raise ConfigError(f"'{key}' is a place in the list '{outer}', which is set as a whole: write {outer}=[...]")
        if hint is not OPEN and not is_section(hint) and get_origin(hint) is not dict:
            raise ConfigError(f"unknown key '{key}' in {OVERRIDES}: '{outer}' has no keys, write {outer}={value}")


def _write_out_backbone(part: DictConfig) -> None:
    """A name as the section that it is short for; a family replaces a built-in one."""
    if isinstance(part.get(BACKBONE), str):
        part[BACKBONE] = _named(part[BACKBONE])
    elif isinstance(part.get(BACKBONE), DictConfig) and "family" in part[BACKBONE]:
        part[BACKBONE] = {"name": "", **part[BACKBONE]}


def _named(content: object) -> object:
    """A backbone's name as the section that it is short for."""
    return {"name": content, "family": "", "path": ""} if isinstance(content, str) else content


def _with_line(sentence: str, document: Document, changes: DictConfig) -> str:
    """With the place of the key that a sentence begins with, where the file sets it."""
    quoted = re.match(r"'([^']+)' ", sentence)
    key = quoted[1] if quoted else ""
    if key not in document.places or document.origin in sentence or OmegaConf.select(changes, key) is not None:
        return sentence
    return f"{sentence} ({document.places[key]})"


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
    with contextlib.suppress(OSError):  # a name that no file system takes
        for candidate in [name, EXPERIMENTS / name, EXPERIMENTS / f"{name}.yaml", SHIPPED / f"{name}.yaml"]:
            if candidate.is_file():
                return candidate
    raise ConfigError(f"there is no experiment '{name}': {nearest(str(name), experiment_names())}")


def experiment_names() -> set[str]:
    """The experiments that can be named here: those of the folder ``experiments``, and those of the checkout."""
    return {
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in (EXPERIMENTS, SHIPPED)
        for path in folder.rglob("*.yaml")
    }


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
