from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gateway import Gateway, mlflow_server
from tracking_world import experiment_in

from probe_lab.config import Experiment
from probe_lab.tracking import background
from probe_lab.tracking import server as health


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite file for all tests: making one takes seconds. Each test has an experiment of its own."""
    return tmp_path_factory.mktemp("mlflow") / "new folder" / "mlflow.db"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No server, and a working folder of its own: MLflow's default is to write into it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture
def experiment(tmp_path: Path, database: Path, request: pytest.FixtureRequest) -> Experiment:
    return experiment_in(tmp_path, f"sqlite:///{database}", request.node.name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real MLflow server: its address, and the folder where its artifacts lie."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def gateway(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """The same server behind an address of its own that can be made to fail. Lost stores are tried again soon, and what
    works is given the time that it takes on a busy machine: the gateway answers from this process, which may be
    importing MLflow."""
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.3)
    monkeypatch.setattr(background, "STALLED", 240.0)
    monkeypatch.setattr(health, "ANSWERS_WITHIN", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    with Gateway(server[0]) as found:
        yield found
