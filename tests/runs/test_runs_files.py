"""A finished cell is one thing: whatever of it is changed, swapped or another cell's is named by who reads it."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probe_lab.config import load_experiment
from probe_lab.errors import ProbeLabError, ReportError
from probe_lab.probes import Probe, ProbeSpec, load_probe, save_probe
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.runs import FinishedCell, Runs
from probe_lab.runs.files import (
    CONFIG,
    DESCRIPTION,
    METRICS,
    PREDICTIONS,
    WEIGHTS,
    objection,
    read_metrics,
    read_predictions,
    require_files,
    sealed,
)
from probe_lab.runs.table import RESULTS, result_rows, write_results
from probe_lab.runs.writing import write_cell
from probe_lab.selection.trained_cells import trained_with
from probe_lab.tracking.values import read_values
from probe_lab.training.cell_files import predictions_table

ONE, OTHER = "step05-linear-x0-mse-seed0-1a2b3c4d", "step05-linear-latent-mse-seed0-5e6f7a8b"
FILES = (METRICS, CONFIG, PREDICTIONS, DESCRIPTION, WEIGHTS)


def _write(folder: Path, number: int) -> None:
    """The files of one small cell, as a training writes them."""
    folder.mkdir(parents=True)
    torch.manual_seed(number)
    save_probe(folder, Probe(ProbeSpec("linear", {("x0", "latent")[number]: (2, 4, 4)}, ("shapes_reward",), 5, 25)))
    samples = pd.DataFrame({"prompt_id": np.arange(8) // 4, "seed": np.arange(8)})
    values = np.random.default_rng(number).normal(size=(2, 8, 1)).astype(np.float32)
    parts = [(split, np.arange(8), values[0], values[1]) for split in ("val", "test")]
    table = predictions_table(parts, ["shapes_reward"], samples)
    metrics = [
        {
            "evaluator": "shapes_reward",
            "split": split,
            "metric": metric,
            "estimate": 0.25 + number,
            "prompts": 2,
            "tied": 0,
        }
        | {"lower": 0.1, "upper": None}
        for split in ("val", "test")
        for metric in ("srcc_within", "selection_gain")
    ]
    facts = {"model": "linear", "step": 5, "taps": [("x0", "latent")[number]], "loss": "mse", "seed": 0}
    config = load_experiment("smoke", [f"trainer.seed={number}"]).to_yaml()
    write_cell(folder, config, table, {"cell": folder.name, **facts, "seconds": 1.5, "metrics": metrics})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder of two cells."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    rows = []
    for number, name in enumerate((ONE, OTHER)):
        _write(runs / name, number)
        rows += result_rows(read_metrics(runs / name), {"probe.taps": name})
    write_results(runs, pd.DataFrame(rows))
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def _compare(runs: Path) -> object:
    return [(cell.config, cell.content) for cell in Runs(runs).cells([ONE, OTHER])]


def _report(runs: Path) -> object:
    results = load_results(runs)
    tables = [results.predictions(cell, "shapes_reward").to_csv() for cell in (ONE, OTHER)]
    return results.means.to_csv(), results.scores.to_csv(), tables, results.config(ONE)


def _select(runs: Path) -> object:
    trained = trained_with(runs / ONE)
    probe = load_probe(runs / ONE)
    state = {name: tensor.tolist() for name, tensor in probe.state_dict().items()}
    return trained, probe.spec, state, read_predictions(runs / ONE).to_csv()


def _tracking(runs: Path) -> object:
    values = read_values(FinishedCell.read(runs / ONE))
    return values.params, values.metrics, values.tags


def _sweep(runs: Path) -> object:
    if wrong := objection(runs / ONE):
        raise ReportError(wrong)
    return None


READERS: tuple[Callable[[Path], object], ...] = (_compare, _report, _select, _tracking, _sweep)


def _reads(runs: Path) -> dict[str, object]:
    """What each reader says, or the line with which it refuses."""
    said: dict[str, object] = {}
    for reader in READERS:
        try:
            said[reader.__name__] = reader(runs)
        except ProbeLabError as error:
            said[reader.__name__] = error
    return said


def _names_it_or_is_unchanged(runs: Path, expected: dict[str, object], *, name: str) -> None:
    said = _reads(runs)
    for reader, before in expected.items():
        now = said[reader]
        assert isinstance(now, ProbeLabError) or now == before, (reader, name)
    assert isinstance(said["_sweep"], ProbeLabError), name  # which would train it again
    assert any(Path(known).name in str(said["_sweep"]) for known in (name, METRICS))


@pytest.fixture(scope="module")
def expected(finished: Path) -> dict[str, object]:
    said = _reads(finished)
    assert not [value for value in said.values() if isinstance(value, ProbeLabError)]
    return said


@pytest.mark.parametrize("names", [(name,) for name in FILES] + [FILES, (METRICS, PREDICTIONS), (DESCRIPTION, WEIGHTS)])
def test_files_of_another_cell(runs: Path, expected: dict[str, object], names: tuple[str, ...]) -> None:
    for name in names:
        shutil.copy(runs / OTHER / name, runs / ONE / name)
    _names_it_or_is_unchanged(runs, expected, name=names[0])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["empty", "half", "gone", "not UTF-8", "a list", "deep"])
def test_damaged_files(runs: Path, expected: dict[str, object], name: str, damage: str) -> None:
    path = runs / ONE / name
    data = path.read_bytes()
    contents = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "not UTF-8": data[:20] + b"\xfb" + data[21:],
        "a list": b"[1, 2]",
        "deep": b"[" * 100_000,
    }
    path.unlink()
    if damage in contents:
        path.write_bytes(contents[damage])
    elif name == METRICS:  # a cell that is not finished is none
        assert [folder.name for folder in Runs(runs).finished()] == [OTHER]
        return
    _names_it_or_is_unchanged(runs, expected, name=name)


def test_bytes_that_flip(runs: Path, expected: dict[str, object]) -> None:
    chance = random.Random(5)
    for name in FILES:
        path = runs / ONE / name
        whole = path.read_bytes()
        for _ in range(8):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.write_bytes(bytes(damaged))
            said = _reads(runs)
            for reader, before in expected.items():
                assert isinstance(said[reader], ProbeLabError) or said[reader] == before, (reader, name)
        path.write_bytes(whole)


def test_a_changed_digit(runs: Path) -> None:
    path = runs / ONE / METRICS
    path.write_text(path.read_text().replace("0.25", "0.75", 1))
    for reader in (_compare, _report, _sweep):
        with pytest.raises(ReportError, match=r"metrics.json changed since it was written"):
            reader(runs)


def test_a_cell_in_the_folder_of_another(runs: Path) -> None:
    shutil.rmtree(runs / ONE)
    shutil.copytree(runs / OTHER, runs / ONE)
    for reader in (_compare, _report, _sweep):
        with pytest.raises(ReportError, match=rf"metrics.json is of the cell {OTHER}, copied or renamed to here"):
            reader(runs)


def test_a_probe_where_the_cell_keeps_none(runs: Path) -> None:
    content = read_metrics(runs / ONE)
    bare = {key: value for key, value in content.items() if key not in ("files", "digest")}
    for name in (DESCRIPTION, WEIGHTS, METRICS):
        (runs / ONE / name).unlink()
    write_cell(runs / ONE, (runs / ONE / CONFIG).read_text(), read_predictions(runs / ONE), bare)
    assert objection(runs / ONE) == ""
    for name in (DESCRIPTION, WEIGHTS):
        shutil.copy(runs / OTHER / name, runs / ONE / name)
    with pytest.raises(ProbeLabError, match=r"probe.json is of another cell"):
        load_probe(runs / ONE)


def test_cells_of_before_count_as_they_did(runs: Path, expected: dict[str, object]) -> None:
    for name in (ONE, OTHER):
        path = runs / name / METRICS
        content = json.loads(path.read_text())
        del content["files"], content["digest"]
        path.write_text(json.dumps(content))
    rows = [row for name in (ONE, OTHER) for row in result_rows(read_metrics(runs / name), {"probe.taps": name})]
    write_results(runs, pd.DataFrame(rows))
    said = _reads(runs)
    assert not [value for value in said.values() if isinstance(value, ProbeLabError)]
    assert (said["_report"], said["_select"], said["_sweep"]) == tuple(
        expected[name] for name in ("_report", "_select", "_sweep")
    )
    require_files(runs / ONE, read_metrics(runs / ONE))


def test_a_probe_alone_needs_no_cell(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    for name in (DESCRIPTION, WEIGHTS):
        shutil.copy(runs / ONE / name, tmp_path / "alone" / name)
    assert load_probe(tmp_path / "alone").spec == load_probe(runs / ONE).spec


@pytest.mark.parametrize(
    "entry", [{"metric": 1}, {"split": None}, {"estimate": "0.5"}, {"evaluator": ["a"]}, {"lower": True}]
)
def test_metrics_of_another_shape(runs: Path, entry: dict[str, object]) -> None:
    path = runs / ONE / METRICS
    content = json.loads(path.read_text())
    content["metrics"][0] |= entry
    path.write_text(json.dumps(content))
    for reader in (_compare, _report, _sweep, _tracking):
        with pytest.raises(ReportError, match=r"metrics.json cannot be read \(TypeError"):
            reader(runs)


def test_results_of_before(runs: Path) -> None:
    """The cell was trained again since, and the table is the older one."""
    before = (runs / RESULTS).read_bytes()
    content = read_metrics(runs / ONE)
    shutil.rmtree(runs / ONE)
    _write(runs / ONE, 1)
    assert read_metrics(runs / ONE)["digest"] != content["digest"]
    with pytest.raises(ReportError, match=rf"results.parquet holds other results of {ONE} than its metrics.json"):
        load_results(runs)
    rows = [row for name in (ONE, OTHER) for row in result_rows(read_metrics(runs / name), {})]
    write_results(runs, pd.DataFrame(rows))
    load_results(runs)
    (runs / RESULTS).write_bytes(before)
    with pytest.raises(ReportError, match=r"run `probe-lab sweep` again"):
        load_results(runs)


def test_results_whose_bytes_flip(runs: Path, expected: dict[str, object]) -> None:
    chance, path = random.Random(6), runs / RESULTS
    whole = path.read_bytes()
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(ReportError):
            assert _report(runs) == expected["_report"]


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", "a\nb", "", "x" * 300])
@pytest.mark.parametrize("key", ["evaluator", "split", "metric"])
def test_a_name_in_a_strangers_cell_is_no_path(runs: Path, key: str, name: str) -> None:
    path = runs / ONE / METRICS
    content = json.loads(path.read_text())
    for entry in content["metrics"][-2:]:
        entry[key] = name
    sealing = {field: value for field, value in content.items() if field not in ("digest", "files")}
    path.write_text(json.dumps(sealed(runs / ONE, sealing)))  # as a stranger can
    for reader, said in _reads(runs).items():
        assert f"the {key} {name!r} is no name" in str(said), reader


@pytest.mark.parametrize(
    "text", ["probe: [", "probe: 5", "probe: \x00", "probe: " + "[" * 1000, "probe: [a]", "probe: {step: *x}"]
)
def test_a_strangers_configuration_is_one_line_with_its_name(runs: Path, text: str) -> None:
    (runs / ONE / CONFIG).write_text(f"name: tiny\nbackbone: tiny-sd\n{text}\n")
    content = json.loads((runs / ONE / METRICS).read_text())
    sealing = {field: value for field, value in content.items() if field not in ("digest", "files")}
    (runs / ONE / METRICS).write_text(json.dumps(sealed(runs / ONE, sealing)))
    write_results(runs, pd.DataFrame([row for name in (ONE, OTHER) for row in _rows(runs, name)]))
    with pytest.raises(ReportError, match=rf"{ONE}/config\.yaml cannot be read"):
        load_results(runs).written(ONE)


def _rows(runs: Path, name: str) -> list[dict[str, object]]:
    return result_rows(read_metrics(runs / name), {"probe.taps": name})
