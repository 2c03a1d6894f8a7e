"""Imports run one way: every room imports only what stands below it here, and no file imports itself by a detour.

Imports within functions count. Those under ``TYPE_CHECKING`` do not: nothing is imported by them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import probe_lab

ROOT = Path(probe_lab.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("verbs",),
    ("report",),
    ("tradeoff",),
    ("selection",),
    ("compare",),
    ("sweep",),
    ("training", "tracking"),
    ("probes",),
    ("labels",),
    ("previews",),
    ("generation",),
    ("capture",),
    ("backbones",),
    ("evaluators",),
    ("data", "engines"),
    ("runs",),
    ("config",),
    ("words",),
    ("taps",),
    ("cache", "losses", "metrics", "shapes"),
    (
        "csv_text",
        "flop_counter",
        "fonts",
        "markdown_text",
        "processes",
        "progress",
        "resource_errors",
        "terminal_tables",
    ),
    ("console", "json_text", "lazy", "old_module_names", "registry", "regular_files", "safe_names"),
    ("errors",),
)
"""From the top to the bottom. Rooms beside each other do not import each other."""

PLACES = {"words": ("data.scalars", "data.splits", "data.canonical")}
"""Modules that stand on another layer than the rest of their room: the words that experiments are written in."""


def name_of(path: Path) -> str:
    """``cache.reader``, without ``probe_lab`` before it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem != "__init__"}
ROOMS = [room for layer in LAYERS for room in layer]


def exports() -> dict[str, str]:
    """For ``cache.Cache``, that a lazy package gives, the module that it is of: ``cache.reader``."""
    homes = {}
    for stub in ROOT.rglob("__init__.pyi"):
        for line in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(line, ast.ImportFrom):
                for name in line.names:
                    homes[f"{name_of(stub)}.{name.asname}".lstrip(".")] = within(f"{line.module}")
    return homes


def within(module: str) -> str:
    return module.removeprefix("probe_lab").lstrip(".")


def imports_of(node: ast.AST) -> Iterator[str]:
    """What is imported below ``node`` but for type checking, as ``cache.Cache`` of ``from probe_lab.cache``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (within(alias.name) for alias in child.names if alias.name.split(".")[0] == "probe_lab")
        elif isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "probe_lab":
            yield from (f"{within(child.module or '')}.{alias.name}".lstrip(".") for alias in child.names)
        yield from imports_of(child)


@pytest.fixture(scope="module")
def graph() -> nx.DiGraph:
    """An edge from every module to each that it imports. A lazy package is no module of its own: its names lead on."""
    homes = exports()
    graph = nx.DiGraph()
    for name, path in FILES.items():
        if path.with_suffix(".pyi").exists():
            continue
        for wanted in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            target = homes.get(wanted, wanted)
            while target and target not in FILES:  # a class or a function of a module
                target = target.rpartition(".")[0]
            if target not in ("", name):
                graph.add_edge(name, target)
    return graph


def room_of(module: str) -> str:
    for room, modules in PLACES.items():
        if module in modules:
            return room
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def test_every_module_has_a_layer() -> None:
    assert len(set(ROOMS)) == len(ROOMS)
    assert {room_of(module) for module in FILES} == set(ROOMS)
    for modules in PLACES.values():
        assert set(modules) <= set(FILES), "a module that is gone needs no place"


def test_imports_run_from_the_top_to_the_bottom(graph: nx.DiGraph) -> None:
    height = {room: -number for number, layer in enumerate(LAYERS) for room in layer}
    upward = [
        f"{module} imports {target}: {room_of(target)} is not below {room_of(module)}"
        for module, target in graph.edges
        if room_of(module) != room_of(target) and height[room_of(target)] >= height[room_of(module)]
    ]
    assert upward == []


def test_no_module_imports_itself_by_a_detour(graph: nx.DiGraph) -> None:
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def type_names(tree: ast.Module) -> Iterator[str]:
    """The public classes and aliases (``Literal[...]``, ``Callable[...]``, ``A | B``) that a module defines."""
    for line in tree.body:
        if isinstance(line, ast.ClassDef):
            name = line.name
        elif isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(line.value, ast.Subscript | ast.BinOp):
            name = ast.unparse(line.targets[0] if isinstance(line, ast.Assign) else line.target)
        else:
            continue
        if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
            yield name


def test_no_public_type_name_is_defined_twice() -> None:
    """So that a name in a traceback, or in a search, is one thing."""
    homes: dict[str, list[str]] = {}
    for module, path in FILES.items():
        for name in type_names(ast.parse(path.read_text(encoding="utf-8"))):
            homes.setdefault(name, []).append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}
