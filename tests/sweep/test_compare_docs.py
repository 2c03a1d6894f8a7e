"""Every example of docs/compare.md runs, and the page names every option."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import pytest
from compare_world import write_runs
from sweep_world import make_experiment
from typer.testing import CliRunner

from probe_lab import cli

DOCS = Path(__file__).parents[2] / "docs" / "compare.md"


def docs_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """An experiment of that name in the working directory, which the examples of the page compare."""
    monkeypatch.chdir(tmp_path)
    grid = {"probe.step": [5, 8], "probe.loss": ["mse", "listwise"], "trainer.seed": [0, 1]}
    folders = write_runs(make_experiment(Path(), grid, name="quickstart", capture={"steps": [1, 5, 8]}))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quickstart.yaml").write_text((folders[0] / "config.yaml").read_text())
    return folders


def test_every_command_of_the_docs_runs(quickstart: list[Path]) -> None:
    lines = [line for block in docs_blocks("bash") for line in block.replace("\\\n", "").splitlines() if line]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[:3] == ["probe-lab", "compare", "quickstart"]
        result = CliRunner().invoke(cli.app, words[1:])
        assert result.exit_code == 0, (line, result.output, result.exception)
    assert Path("table.csv").exists()


def test_the_python_of_the_docs_runs(quickstart: list[Path]) -> None:
    (block,) = docs_blocks("python")
    named = {"folder_a": quickstart[0], "folder_b": quickstart[2]}
    exec(compile(block, str(DOCS), "exec"), named)


def test_the_docs_name_every_option() -> None:
    options = set(inspect.signature(cli.compare).parameters) - {"experiment", "overrides", "where"} | {"filter"}
    page = DOCS.read_text(encoding="utf-8")
    assert [name for name in sorted(options) if f"`--{name}" not in page] == []
