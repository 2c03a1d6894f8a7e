"""What an experiment may name: ours, what is registered, installed or imported, and what files beside it hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from probe_lab import registry
from probe_lab.config import load_experiment
from probe_lab.errors import ConfigError
from probe_lab.losses import LOSSES, Loss, in_order, loss_text, parse_loss
from probe_lab.registry import Registry, imported

LOSS = """
from probe_lab.losses import Loss

huber = Loss(lambda prediction, target, now, group: (prediction - target).abs().mean(), "Huber", keys=("temperature",))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(LOSSES, "_imported", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def numbers() -> Registry[int]:
    return Registry("number", int, "numbers", {"one": 1}, made=lambda found: len(found) if type(found) is str else None)


def test_a_name_is_ours_registered_installed_or_of_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "given.py").write_text("import math\nfour = 4\nword = 'three'\nclass Deep:\n    five = 5\n")
    installed = EntryPoints([EntryPoint("many", "given:four", "probe_lab.numbers")])
    monkeypatch.setattr(registry, "_installed", lambda group: installed if group == "numbers" else EntryPoints())
    known = numbers()
    known.register("two", 2)
    assert known.names() == ("one", "two", "many")
    assert known.loaded("given:four") is None  # a name in a file from elsewhere imports nothing
    found = [known.get(name) for name in ("one", "two", "given:four", "given:Deep.five", "given:word", "many")]
    assert found == [1, 2, 4, 5, 5, 4]
    assert known.loaded("given:four") == 4
    assert str(folder) not in sys.path
    for name, told in {
        "tow": "there is no number 'tow': did you mean 'two'",
        "given:fuor": "'given' has no 'fuor': did you mean 'four'",
        "givne:four": "there is no module 'givne': did you mean 'given'",
        "given:math": "the number 'given:math' is a module: name an instance of int",
    }.items():
        with pytest.raises(ConfigError, match=told):
            known.get(name)
    for name, told in {"two": "registered twice", "a:b": "leave out ':'"}.items():
        with pytest.raises(ConfigError, match=told):
            known.register(name, 3)


def test_the_current_folder_keeps_its_place_on_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "given.py").write_text("four = 4\n")
    path = [str(folder), *sys.path]
    monkeypatch.setattr(sys, "path", list(path))
    assert numbers().get("given:four") == 4
    assert sys.path == path


def test_a_module_that_cannot_be_imported_says_why(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    (folder / "lacking.py").write_text("import no_such_library")
    with pytest.raises(ConfigError, match=r"'broken:x' cannot be imported: ZeroDivisionError: division by zero"):
        imported("broken:x")
    with pytest.raises(ConfigError, match=r"'lacking:x' cannot be imported: No module named 'no_such_library'"):
        imported("lacking:x")


def test_a_loss_of_ones_own(folder: Path) -> None:
    (folder / "my_losses.py").write_text(LOSS)
    assert parse_loss("my_losses:huber+infonce") == ("my_losses:huber", "infonce")
    assert in_order(("my_losses:huber", "infonce", "mse")) == ["mse", "infonce", "my_losses:huber"]
    assert loss_text("my_losses:huber+infonce") == "Huber + InfoNCE"
    assert loss_text("elsewhere:robust") == "robust"
    assert LOSSES.get("my_losses:huber").reads("temperature")
    assert isinstance(LOSSES.get("my_losses:huber"), Loss)


def test_plugins_lie_beside_the_experiment(folder: Path) -> None:
    beside = folder / "deep" / "beside"
    beside.mkdir(parents=True)
    (beside / "plugged.py").write_text(LOSS)
    path = beside / "mine.yaml"
    path.write_text('backbone: tiny-sd\nplugins: [plugged.py]\nprobe: {loss: "plugged:huber"}\n')
    experiment = load_experiment(path)
    assert (experiment.plugins, experiment.probe.loss) == (["plugged.py"], "plugged:huber")
    assert str(beside) in sys.path  # which workers inherit
    with pytest.raises(ConfigError, match=r"names .*pluged.py, which is no Python file: did you mean 'plugged.py'"):
        load_experiment(path, ["plugins=[pluged.py]"])
    (beside / "json.py").write_text("")
    with pytest.raises(ConfigError, match="there is another module 'json'"):
        load_experiment(path, ["plugins=[json.py]"])
