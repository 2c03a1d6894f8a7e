"""The examples of docs/tracking.md."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_world import make_experiment
from tracking_world import experiment_in, play

PAGE = Path(__file__).parents[2] / "docs" / "tracking.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_keys_of_the_example_exist(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    experiment = make_experiment(tmp_path, **yaml.safe_load(text))
    assert experiment.tracking.uri == "http://tracking.example.org:5000"
    assert experiment.tracking.system_metrics


def test_the_query_finds_the_best_cell_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    play(experiment_in(tmp_path, "sqlite:///mlflow.db", "quickstart"))
    (code,) = blocks("python")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the example sets it: it ends with the test
    found: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, found)
    assert found["best"]["tags.seed"].tolist() == ["2", "1", "0"]
    assert "3 rows" in printed.getvalue()
