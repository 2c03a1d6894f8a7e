"""Every key says what it is for, and the page and the tables of the keys are made from that."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from probe_lab.cli import app
from probe_lab.config import known_keys, load_experiment
from probe_lab.config.keys import declarations, leaf_keys
from probe_lab.config.manual import manual_table, matching, page, sections
from probe_lab.console import PlainConsole
from probe_lab.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["config", *arguments], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_every_key_has_a_description_that_is_a_sentence() -> None:
    assert set(leaf_keys()) <= set(declarations())
    for section in sections():
        assert section.text.endswith("."), section.name
        for entry in section.entries:
            assert re.fullmatch(r"[A-Z].{8,}\.", entry.text), entry.key
            assert entry.allowed, entry.key


def test_every_key_is_in_the_manual() -> None:
    entries = {entry.key for section in sections() for entry in section.entries}
    assert set(declarations()) <= entries
    assert {key for key in entries if "NAME" not in key and not key.startswith("sweep.")} - known_keys() == {"defaults"}


def test_the_page_is_the_one_that_is_made() -> None:
    assert PAGE.read_text() == page(), "renew it: probe-lab config --markdown > docs/config.md"
    assert printed("--markdown") == page()


def test_tables_fit_a_terminal_of_80_columns() -> None:
    for section in matching(""):
        console = PlainConsole(file=io.StringIO(), width=80, soft_wrap=True)
        console.print(manual_table(section))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, lines)) <= 80, section.name
        assert not any("…" in line for line in lines), section.name


def test_a_section_and_one_key_can_be_asked_for() -> None:
    assert "temperature" in (probe := printed("probe"))
    assert "max_epochs" not in probe
    one = printed("probe.dropout")
    assert all(word in one for word in ("0.3", "Share of features set to 0 in training.", "0 to below 1"))
    assert printed("dropout") == one
    assert all(f"{section.name}: " in printed() for section in sections())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prob", "no section and no key 'prob': did you mean 'probe'"),
        ("probe.dropuot", "no key 'probe.dropuot': did you mean 'probe.dropout'"),
        ("device", "several keys are called 'device'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        matching(name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("probe.ema=1", r"'probe.ema' is 1.0: .* below 1 \(decay of the moving average of the weights\)"),
        ("halving.factor=1", r"'halving.factor' is 1: it must be at least 2, and at most 1,000,000 \(at each cut"),
        ("tradeoff.timed=[2,-1]", r"'tradeoff.timed' names -1: it must not be negative, .* \(numbers of `candidates`"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_what_the_key_is_for(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("smoke", [override])
