"""Experiment files that include others: ``defaults: [base.yaml]`` at the head of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probe_lab.config.document import DEFAULTS, SWEEP, Document, read_document
from probe_lab.config.duplicates import require_once
from probe_lab.config.schema import BACKBONE
from probe_lab.config.sweep import overridden
from probe_lab.errors import ConfigError, nearest

MOST_LEVELS = 32
"""Files that include each other in a row."""
_ROOT = "experiments"


def read_documents(path: Path) -> list[Document]:
    """A file and all that it includes, what is included first; a file that several include is there once.

    Names in ``defaults`` are relative to the file that has them. They stay within the folder ``experiments`` that the
    file lies in, or within its own folder where it lies in none.

    Raises:
        ConfigError: a file includes itself, one that is not there or lies outside, or is itself not valid.
    """
    documents: dict[Path, Document] = {}
    _collect((path,), documents)
    return list(documents.values())


def laid_over(included: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The content of two files, of which the second one's keys win.

    Sections are joined key by key, lists replaced. A backbone replaces another one. A sweep is laid over another one as
    that of an override is: ``sweep: []`` drops it. The name of an included file is no key of the other one.
    """
    content = _joined({key: value for key, value in included.items() if key != "name"}, own)
    if SWEEP in included and SWEEP in own:
        content[SWEEP] = overridden(included[SWEEP], own[SWEEP])
    backbone = own.get(BACKBONE)
    if isinstance(backbone, dict) and {"name", "family"} & set(backbone):
        content[BACKBONE] = backbone
    return content


def _joined(included: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    content = dict(included)
    for key, value in own.items():
        below = content.get(key)
        content[key] = _joined(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return content


def _collect(chain: tuple[Path, ...], documents: dict[Path, Document]) -> None:
    """Read the last file of a chain of includes, after those that it includes itself."""
    path = chain[-1]
    document = read_document(path)
    names = document.content.pop(DEFAULTS, [])
    require_once(f"'{DEFAULTS}' in {path}", names)
    for name in names:
        included = _included(name, chain)
        if included not in documents:
            _collect((*chain, _shortest(included)), documents)
    documents[path.resolve()] = document


def _included(name: str, chain: tuple[Path, ...]) -> Path:
    """The file of a name in ``defaults``, resolved."""
    path = chain[-1]
    root = _root(path)
    try:
        target = (path.parent / name).resolve()
        inside, exists = target.is_relative_to(root.resolve()), target.is_file()
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes, or links in a circle
        inside, exists = True, False
    if Path(name).is_absolute() or not inside:
        raise ConfigError(
            f"{path} includes '{name}', which is outside of {root}: name a file in that folder, relative to {path.name}"
        )
    if not exists:
        beside = {file.name for file in (path.parent / name).parent.glob("*.yaml")}
        raise ConfigError(f"{_shown(chain)} includes '{name}', which is no file: {nearest(Path(name).name, beside)}")
    places = [file.resolve() for file in chain]
    if target in places:
        circle = chain[places.index(target) :]
        raise ConfigError(f"{_shown((*circle, target))} is a circle of includes: take '{name}' out of {path}")
    if len(chain) >= MOST_LEVELS:
        raise ConfigError(f"{chain[0]} has more than {MOST_LEVELS} files that include each other: join some of them")
    return target


def _shortest(path: Path) -> Path:
    """A path as messages name it: from the working folder, where the file lies within it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _root(path: Path) -> Path:
    """The folder that includes may not leave."""
    folders = path.absolute().parents
    return next((folder for folder in folders if folder.name == _ROOT), folders[0])


def _shown(chain: tuple[Path, ...]) -> str:
    """The files of a chain: the first as it was given, the others by their names."""
    return " → ".join([str(chain[0]), *(file.name for file in chain[1:])])
