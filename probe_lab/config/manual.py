"""The manual of all keys, made from the schema: a page of the documents, and tables for a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

from rich import box
from rich.table import Table
from rich.text import Text

from probe_lab.config.declare import Declared, declared
from probe_lab.config.key_types import hint_at, is_text, without_null
from probe_lab.config.keys import ENTRIES, declarations, key_of, leaf_keys
from probe_lab.config.schema import Schema
from probe_lab.errors import ConfigError, nearest
from probe_lab.registry import NAMED, registry_of

_HEAD = """\
# Every key of an experiment

An experiment file states only what differs from the defaults; an override on the command line is `KEY=VALUE`.
`probe-lab config SECTION` prints one of these tables in a terminal, and `probe-lab config KEY` one key. This page is
what `probe-lab config --markdown` prints, from the schema in `probe_lab/config/`.

```bash
probe-lab plan quickstart prompts.count=100 capture.steps=[3,5]
```

A file can start from other ones. Its own keys win over theirs, and later files over earlier ones; lists are replaced,
and so is a sweep (`sweep: []` drops it). Their `name` is not taken, so set `cache.name` to read another one's cache:

```yaml
# mine.yaml
defaults: [experiments/quickstart.yaml]
cache: {name: quickstart}
trainer: {max_epochs: 20}
sweep: {probe.loss: [pairwise, lambdarank]}
```
```bash
probe-lab plan mine.yaml
```

What it includes lies in its own folder or below, or anywhere in the folder `experiments` that the file itself is in.
"""
_GENERAL = "experiment"
_COLUMNS = 78
_TEXT = "a text"
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: _TEXT}
_LISTED = {int: "a list of whole numbers", str: "a list of texts"}


@dataclass(frozen=True)
class KeyEntry:
    """One key: its dotted name, default and allowed values in words, and what it is for."""

    key: str
    default: str
    allowed: str
    text: str


@dataclass(frozen=True)
class KeySection:
    """The keys that stand together, by the name of their section."""

    name: str
    text: str
    entries: tuple[KeyEntry, ...]


_DEFAULTS = KeyEntry("defaults", "[]", "a list of files", "Files to start from. Paths are relative to this file.")
_SWEEP = (
    KeyEntry(
        "sweep", "", "a grid, or a list of grids", "Cells to train. A mapping from keys to lists of values or ranges."
    ),
    KeyEntry("sweep.grids", "", "a list of grids", "The grids, where one of the keys below stands beside them."),
    KeyEntry("sweep.select", "", "a test of cells", "Which of the cells to train, `step in [5, 8]` for instance."),
    KeyEntry("sweep.seeds", "", "1 to 100,000", "Training seeds per cell, from 0 on."),
    KeyEntry("sweep.sets", "", "lists of taps by name", "Names of lists of taps, for `probe.taps` and tests of cells."),
)


def sections() -> list[KeySection]:
    """All keys, in the order of the schema; first those that are in no section, last those of the sweep."""
    entries = [_entry(key, entry) for key, entry in declarations().items()]
    general = (_DEFAULTS, *(entry for entry in entries if "." not in entry.key))
    listed = [KeySection(_GENERAL, "What stands at the top of the file.", general)]
    for name, kind in _kinds():
        own = [entry for entry in entries if entry.key.startswith(f"{name}.")]
        own += [entry for key in ENTRIES if key.startswith(f"{name}.") for entry in _named(key)]
        listed.append(KeySection(name, " ".join((kind.__doc__ or "").split("\n\n")[0].split()), tuple(own)))
    return [*listed, KeySection("sweep", "Which cells `probe-lab sweep` trains; docs/sweeps.md has examples.", _SWEEP)]


def matching(name: str) -> list[KeySection]:
    """The section of this name, or the one key that it names, dotted or by its last part; all sections for no name.

    Raises:
        ConfigError: there is no such section and no such key.
    """
    listed = sections()
    if not name or any(section.name == name for section in listed):
        return [section for section in listed if name in ("", section.name)]
    known = {entry.key for section in listed for entry in section.entries}
    if "." not in name and name not in {key.rpartition(".")[2] for key in known}:
        names = (section.name for section in listed)
        raise ConfigError(f"there is no section and no key '{name}': {nearest(name, names)}")
    key = name if name in known else key_of(name, ())
    return [
        KeySection(key, "", tuple(entry for entry in section.entries if entry.key == key))
        for section in listed
        if any(entry.key == key for entry in section.entries)
    ]


def page() -> str:
    """docs/config.md."""
    return "\n".join([_HEAD, *(line for section in sections() for line in _markdown(section))])


def manual_table(section: KeySection) -> Table:
    """A section for a terminal of 80 columns: key, default, and what it is for with what it may be."""
    heading = f"{section.name}: {section.text}" if section.text else section.name
    table = Table(title=Text(textwrap.fill(heading, _COLUMNS)), title_justify="left", box=box.SIMPLE)
    table.add_column("key", no_wrap=True)
    table.add_column("default", max_width=14, overflow="fold")
    table.add_column("what it is for; what it may be", overflow="fold")
    for entry in section.entries:
        lines = [entry.text, *([entry.allowed] if entry.allowed != _TEXT else [])]
        table.add_row(entry.key.removeprefix(f"{section.name}."), entry.default, "\n".join(lines).replace("`", ""))
    return table


def _markdown(section: KeySection) -> Iterator[str]:
    yield f"## `{section.name}`\n\n{section.text}\n"
    yield "| Key | Default | Allowed | What it is for |\n|---|---|---|---|"
    for entry in section.entries:
        default = f"`{entry.default}`" if entry.default else ""
        yield f"| `{entry.key}` | {default} | {entry.allowed} | {entry.text.replace('|', '&#124;')} |"
    yield ""


def _kinds() -> Iterator[tuple[str, type]]:
    default = Schema()
    for entry in fields(Schema):
        if entry.name not in declarations():
            yield entry.name, type(getattr(default, entry.name))


def _named(key: str) -> Iterator[KeyEntry]:
    """The keys that stand under a name of the user's choice."""
    for entry in fields(ENTRIES[key]):
        about = declared(entry)
        yield KeyEntry(
            f"{key}.NAME.{entry.name}",
            _shown(entry.default),
            _allowed(hint_at([*key.split("."), "", entry.name]), about),
            about.text,
        )


def _entry(key: str, about: Declared) -> KeyEntry:
    if key in NAMED and not about.allowed:
        allowed = f"{', '.join(registry_of(key).names())} or `module:attribute`"
    else:
        allowed = _allowed(hint_at(key.split(".")), about)
    return KeyEntry(key, _shown(leaf_keys().get(key, {})), allowed, about.text)


def _shown(default: object) -> str:
    """A default as a file would write it; nothing for an empty text."""
    return default if isinstance(default, str) else json.dumps(default).replace('"', "")


def _allowed(hint: Any, about: Declared) -> str:
    kind, _ = without_null(hint)
    if about.allowed:
        return about.allowed
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}"
    of_list = get_origin(kind) is list
    number = get_args(kind)[0] if of_list else kind
    if about.limits:
        return about.limits.span(whole=number is int) + (" each" if of_list else "")
    if of_list:
        return _LISTED.get(number, "a list of mappings")
    return _PLAIN.get(str if is_text(kind) else kind, "a section per name")
