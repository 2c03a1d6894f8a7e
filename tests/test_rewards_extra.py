"""The extra `rewards` adds packages beside the main stack; without it none of them is there, and nothing changes."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORIGINALS = {"image-reward", "hpsv2"}


def pinned(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {canonical(name): number for name, number in (line.split("==") for line in lines)}


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


MAIN, ADDED = pinned(ROOT / "constraints.txt"), pinned(ROOT / "rewards" / "constraints.txt")


def test_no_other_requirement_names_an_original() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {canonical(each) for each in extras.pop("rewards")} >= ORIGINALS
    others = [*project["dependencies"], *(each for extra in extras.values() for each in extra)]
    assert not {canonical(each) for each in others} & ADDED.keys()


def test_the_installed_core_requires_none() -> None:
    core = {canonical(each) for each in requires("probe_lab") or [] if "extra ==" not in each}
    assert "torch" in core
    assert not core & ADDED.keys()


def test_the_resolved_main_stack_has_nothing_of_theirs() -> None:
    """constraints.txt is what an install resolves to: neither the packages nor what only they pin."""
    assert ADDED.keys() >= ORIGINALS | {"fairscale", "clint", "datasets"}
    assert not MAIN.keys() & ADDED.keys()
    assert not MAIN.keys() & {"pytest-split", "clip"}


@pytest.mark.skipif(find_spec("hpsv2") is None, reason="the originals are not installed: make rewards")
def test_the_main_stack_keeps_its_versions() -> None:
    found = {}
    for name in [*MAIN, *ADDED]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    wanted = MAIN | ADDED
    assert ADDED.keys() <= found.keys()
    assert {name: number for name, number in found.items() if number != wanted[name]} == {}
    assert find_spec("pytest_split") is None
