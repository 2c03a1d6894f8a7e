"""Old names of modules that have moved."""

from __future__ import annotations

import importlib
import sys

import interpreters
import pytest

from probe_lab.old_module_names import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_module_of_the_new_one(old: str) -> None:
    sys.modules.pop(f"probe_lab.{old}", None)
    new = MOVED[old] if MOVED[old].startswith("tools.") else f"probe_lab.{MOVED[old]}"
    with pytest.warns(DeprecationWarning, match=rf"^probe_lab\.{old} is {new} now$"):
        module = importlib.import_module(f"probe_lab.{old}")
    assert module is importlib.import_module(new)
    assert module.__spec__ is not None
    assert module.__spec__.name == module.__name__ == new


def test_an_old_package_and_its_modules_are_not_loaded_twice() -> None:
    program = (
        "from probe_lab.select import ProbeSelect as old\n"
        "from probe_lab.select.select import ProbeSelect as older\n"
        "from probe_lab.selection import ProbeSelect as new\n"
        "assert old is older is new\n"
        "import probe_lab.select.tradeoff.records, probe_lab.tradeoff.records\n"
        "assert probe_lab.select.tradeoff.records is probe_lab.tradeoff.records\n"
    )
    done = interpreters.run(["-c", program])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["selection.nothing", "select.nothing"])
def test_what_never_was_is_still_missing(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"probe_lab.{name}")
