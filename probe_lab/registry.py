"""What an experiment may name: entries of ours, of installed packages, and ``module:attribute`` of the user's own."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from probe_lab.errors import ConfigError, nearest

T = TypeVar("T")
Made = Callable[[object], T | None]


class Registry(Generic[T]):
    """Entries of one type, by the names that experiments give them.

    A name is one of ours, one that was registered, one of an installed package (entry points of the group
    ``probe_lab.<group>``), or ``module:attribute``: an object of a module that Python finds, or of a file in the
    current folder. The last is a text like all others, so it works in worker processes, which import it themselves.
    """

    def __init__(
        self,
        what: str,
        of: type[T],
        group: str,
        entries: Mapping[str, T],
        *,
        made: Made[T] | None = None,
        wanted: str = "",
    ) -> None:
        """``made`` turns other objects of a module into entries, None where it cannot; ``wanted`` says what to name."""
        self.what = what
        self._of, self._group, self._made = of, group, made
        self._wanted = wanted or f"an instance of {of.__name__}"
        self._entries = dict(entries)
        self._imported: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Let experiments name ``entry``; an equal entry may be registered again, by a script that runs twice.

        Raises:
            ConfigError: another entry has the name, or the name has a colon, or the entry is of another type.
        """
        if ":" in name:
            raise ConfigError(f"the {self.what} '{name}' cannot be registered: leave out ':', of module:attribute")
        entry = self._checked(name, entry)
        if name in self._entries and self._entries[name] != entry:
            raise ConfigError(f"the {self.what} '{name}' is registered twice: give the second one another name")
        self._entries[name] = entry

    def names(self) -> tuple[str, ...]:
        """The names that need no module: ours, those that were registered, those of installed packages."""
        return tuple(dict.fromkeys((*self._entries, *sorted(_installed(self._group).names))))

    def get(self, name: str) -> T:
        """The entry of a name.

        Raises:
            ConfigError: there is none, it cannot be imported, or it is of another type.
        """
        entry = self.loaded(name)
        if entry is not None:
            return entry
        if ":" not in name:
            known = nearest(name, self.names())
            raise ConfigError(f"there is no {self.what} '{name}': {known}, or write module:attribute")
        return self._import(name)

    def loaded(self, name: str) -> T | None:
        """``get`` for a name from a file that nobody here wrote: imports no module that is not imported yet, except
        those of installed packages, and gives None for what it does not know."""
        if name in self._entries:
            return self._entries[name]
        if name in self._imported:
            return self._imported[name]
        if name.partition(":")[0] in sys.modules and ":" in name:
            return self._import(name)
        for point in _installed(self._group).select(name=name):
            self._entries[name] = self._checked(name, point.load())
            return self._entries[name]
        return None

    def _import(self, name: str) -> T:
        self._imported[name] = self._checked(name, imported(name))
        return self._imported[name]

    def _checked(self, name: str, found: object) -> T:
        if isinstance(found, self._of):
            return found
        if self._made is not None and (entry := self._made(found)) is not None:
            return entry
        kind = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"the {self.what} '{name}' is a {kind}: name {self._wanted}")


@functools.cache
def _installed(group: str) -> EntryPoints:
    return entry_points(group=f"probe_lab.{group}")


def registry_of(key: str) -> Registry[Any]:
    """The registry that answers a key of an experiment. It lives where its entries are made and is imported when it is
    asked, so that the configuration depends on none of them."""
    return cast("Registry[Any]", imported(NAMED[key]))


NAMED = {
    "probe.model": "probe_lab.probes.kinds:MODELS",
    "evaluators": "probe_lab.evaluators.base:EVALUATORS",
    "prompts.source": "probe_lab.generation.caption_sources:SOURCES",
    "report_sections": "probe_lab.report.layout.section_maker:SECTIONS",
    "engine.name": "probe_lab.engines.engine_table:ENGINES",
}
"""Keys of an experiment that name entries, and where their registries are."""


def imported(path: str) -> Any:
    """The object that ``module:attribute`` names.

    Raises:
        ConfigError: there is no such module or attribute, or importing the module fails.
    """
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise ConfigError(f"'{path}' names no object: write module:attribute")
    try:
        with _current_folder_importable():
            target: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"'{path}' cannot be imported: {error}") from error
        files = {file.stem for file in Path().glob("*.py")}
        raise ConfigError(
            f"'{path}' cannot be imported, there is no module '{name}': {nearest(name, files)}; put {name}.py in the "
            "current folder, or install it"
        ) from error
    except Exception as error:
        raise ConfigError(f"'{path}' cannot be imported: {_told(error)}") from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [entry for entry in vars(target) if not entry.startswith("_")]
            raise ConfigError(f"'{path}' does not exist, '{name}' has no '{part}': {nearest(part, public)}")
        target = getattr(target, part)
    return target


def import_file(path: Path) -> None:
    """Import a Python file as the module of its name, for ``module:attribute``.

    Its folder stays on the path of modules: worker processes are started with the same one.

    Raises:
        ConfigError: there is no such file, another module has its name, or importing it fails.
    """
    path = path.resolve()
    if path.suffix != ".py" or not path.is_file():
        files = [file.name for file in path.parent.glob("*.py")]
        raise ConfigError(f"'plugins' names {path}, which is no Python file: {nearest(path.name, files)}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:
        raise ConfigError(f"'plugins' names {path}, which cannot be imported: {_told(error)}") from error
    place = getattr(module, "__file__", None) or "built in"
    if Path(place).resolve() != path:
        raise ConfigError(f"'plugins' names {path}, and there is another module '{path.stem}' ({place}): rename it")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """The current folder last on the path, as it is first for a script that lies in it."""
    folder = str(Path.cwd())
    if folder in sys.path:  # it keeps its place
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
