"""The section ``select``: how selection spends denoiser calls, and that no cell depends on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from probe_lab.config import Select, load_experiment
from probe_lab.errors import ConfigError
from probe_lab.runs.identity import cell_name
from probe_lab.training.fit_cell import config_hash

SAID = [
    "select.candidates=10",
    "select.schedule=[{step: 2, keep: 6}, {step: 4, keep: 1}]",
    "select.by=shapes_reward=0.7,shapes_binding=0.3",
]


def test_a_file_may_state_how_it_selects() -> None:
    found = load_experiment("smoke", SAID)
    schedule = [{"step": 2, "keep": 6}, {"step": 4, "keep": 1}]
    assert found.select == Select(10, 1, schedule, by="shapes_reward=0.7,shapes_binding=0.3")
    assert load_experiment("smoke").select == Select()


def test_no_cell_depends_on_it() -> None:
    plain, other = load_experiment("smoke"), load_experiment("smoke", SAID)
    assert cell_name(plain) == cell_name(other)
    assert config_hash(plain) == config_hash(other)
    changed = replace(plain, probe=replace(plain.probe, width=16))
    assert cell_name(plain) != cell_name(changed)
    assert config_hash(plain) != config_hash(changed)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["select.keep=9"], "'select.keep' is 9 and 'select.candidates' 5"),
        (["select.candidates=0"], "'select.candidates' is 0: it must be greater than 0"),
        (["select.accept=0.9"], "'select.accept' in the overrides is no key any more: no choice was ever sure"),
        (["select.budget=-1"], "'select.budget' is -1: it must not be negative"),
        (["select.candidate=3"], "did you mean 'candidates'"),
        (["select.schedule=[{step: 1, keep: x}]"], "'select.schedule.*'x'"),
        (["select.schedule=[{step: 2}]"], "'select.schedule' has the cut .*: write .step: STEP, keep: NUMBER"),
        (["select.schedule=[{step: 1, keep: 1}]", "select.budget=30"], "'select.budget' .30. both say when to choose"),
    ],
)
def test_impossible_ones_are_refused(said: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("smoke", said)


def test_what_a_cell_stored_under_keys_of_earlier_versions_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "name: cell\nbackbone: tiny-sd\ntrainer: {seed: 3, strategy: ddp}\nselect: {accept: 0.0, keep: 2}\n"
    )
    found = load_experiment(path, stored=True)
    assert (found.trainer.seed, found.select) == (3, Select(keep=2))
    with pytest.raises(ConfigError, match=r"is no key any more"):
        load_experiment(path)
