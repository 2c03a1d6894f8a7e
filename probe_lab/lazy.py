"""Packages whose names are imported when they are first used, so that a command pays only for what it does."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def lazy_names(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` for the package ``package``, whose ``__init__.py`` is ``file``.

    The names are those of ``__init__.pyi`` beside it, one list for editors, mypy and this function. It holds lines such
    as ``from probe_lab.cache.reader import Cache as Cache`` and nothing else. A name must not be that of a file of the
    package: importing the file would put the module in the name's place.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    homes = {name.asname or name.name: (line.module or "", name.name) for line in imports for name in line.names}

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, own_name = homes[name]
        value = getattr(import_module(module), own_name)
        setattr(sys.modules[package], name, value)  # from now on it is found without this function
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *homes}), sorted(homes)
