"""The examples of docs/sweeps.md give the cells that stand below them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from sweep_world import make_experiment

from probe_lab.sweep import Cell, cells

PAGE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
TAPS = re.findall(r"`([^`]+)`", PAGE.partition("an experiment that captures")[2].partition("with `probe.step`")[0])


def told(cell: Cell) -> str:
    values = {key.rpartition(".")[2]: value for key, value in cell.axes.items()}
    return ", ".join(f"{k} {'+'.join(v) if isinstance(v, list) else v}" for k, v in values.items())


@pytest.mark.parametrize(("content", "expected"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_has_the_cells_that_are_shown(content: str, expected: str) -> None:
    sweep = OmegaConf.create(content)["sweep"]
    experiment = make_experiment(Path("x"), sweep, capture={"steps": [1, 3, 5], "taps": TAPS}, probe={"taps": ["x0"]})
    assert [told(cell) for cell in cells(experiment)] == expected.splitlines()


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) == PAGE.count("```yaml") == 11
    assert len(TAPS) == 5
