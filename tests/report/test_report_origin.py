"""Which backbone and cache a cell was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_lab.config import load_experiment
from probe_lab.errors import ReportError
from probe_lab.report.analysis.origin import Origin, origin_names, origin_of
from probe_lab.runs.configs import Configs, Flat


def _written(text: str) -> Flat:
    return Configs().read(text, Path("config.yaml"))


@pytest.mark.parametrize(
    ("config", "origin"),
    [
        ("", Origin()),
        ("probe:\n  step: 5\n", Origin()),
        ("name: a\nbackbone:\n  name: tiny-sd\n  path: ''\n", Origin("tiny-sd", "a")),
        ("cache:\n  name: b\nbackbone:\n  family: sd\n  path: /x\nname: a\n", Origin("sd:/x", "b")),
        ("evaluators:\n- name\nname: a\nbackbone: tiny-sd3\n", Origin("tiny-sd3", "a")),
    ],
)
def test_read_from_a_configuration(config: str, origin: Origin) -> None:
    assert origin_of(_written(config)) == origin


def test_read_from_what_an_experiment_writes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nbackbone: tiny-sd3\n")
    assert origin_of(_written(load_experiment(path).to_yaml())) == Origin("tiny-sd3", "mine")
    assert origin_of(_written(load_experiment(path, ["cache.name=theirs"]).to_yaml())) == Origin("tiny-sd3", "theirs")


@pytest.mark.parametrize("section", ["a: [", "a: &x [*x]", "5", "a: " + "[" * 1000, "a: 2024-99-01"])
def test_what_is_no_configuration_is_one_sentence(section: str) -> None:
    text = "name: tiny\nprobe: 5\n" if section == "5" else f"name: tiny\nprobe: {{{section}}}\n"
    with pytest.raises(ReportError, match=r"config\.yaml cannot be read \("):
        _written(text)


def test_names_say_no_more_than_they_need() -> None:
    names = origin_names([Origin("tiny-sd", "a"), Origin("tiny-sd3", "b")])
    assert names == ["tiny-sd", "tiny-sd3"]
    names = origin_names([Origin("tiny-sd", "a"), Origin("tiny-sd", "b"), Origin("", "c"), Origin()])
    assert names == ["tiny-sd (a)", "tiny-sd (b)", "c", "unknown backbone"]
