"""One training by two processes on the CPU."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import interpreters
import numpy as np
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

from probe_lab.cache import Cache
from probe_lab.cli import app
from probe_lab.config import Experiment, Tracking, with_changes
from probe_lab.errors import ConfigError, ProbeError
from probe_lab.metrics import evaluate
from probe_lab.probes import Inputs, Probe, load_probe
from probe_lab.training.distributed import RankTask, fit_on_ranks, require_devices
from probe_lab.training.fit_cell import train_cell
from probe_lab.training.fit_probe import prepared, seeded
from probe_lab.training.probe_data import data_of, decided

sys.path.insert(0, str(Path(__file__).parent))  # which the ranks inherit

from distributed_world import NOTES, FailingModule, NotingModule

PAGE = (Path(__file__).parents[2] / "docs" / "training_at_scale.md").read_text()


def on_two(experiment: Experiment, **trainer: Any) -> Experiment:
    return replace(experiment, trainer=replace(experiment.trainer, devices=2, **trainer))


Processes = Callable[[], list[psutil.Process]]


@pytest.fixture(scope="module")
def processes() -> Processes:
    """The children that these tests made, in the order of their start. Those of tests before are theirs; the tracker of
    Python's own resources and the server of interpreters stay as long as Python."""
    resource_tracker.ensure_running()
    interpreters.ensure_running()
    earlier = set(psutil.Process().children(recursive=True))

    def ours() -> list[psutil.Process]:
        children = set(psutil.Process().children(recursive=True)) - earlier
        return sorted(children, key=lambda child: (child.create_time(), child.pid))  # the clock ticks every 10 ms

    return ours


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def shown(
    planted: Cache, processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Experiment], Path]:
    """The cell of the command that the page shows, on another experiment; trained once."""
    root, done = tmp_path_factory.mktemp("shown"), []

    def train(experiment: Experiment) -> Path:
        if not done:
            (command,) = re.findall(r"^probe-lab (train) quickstart (.*)$", PAGE, re.MULTILINE)
            file = root / "tiny.yaml"
            own = replace(experiment, name="tiny", runs=str(root / "runs"), tracking=Tracking(uri=""))
            file.write_text(own.to_yaml())
            result = CliRunner().invoke(app, [command[0], str(file), *command[1].split()], catch_exceptions=False)
            assert result.exit_code == 0, result.output
            assert processes() == []
            done.extend(path.parent for path in (root / "runs" / "tiny").glob("*/metrics.json"))
        (folder,) = done
        return Path(folder)

    return train


def test_the_shown_command_trains_a_cell_whose_metrics_are_those_of_all_samples(
    experiment: Experiment, shown: Callable[[Experiment], Path], planted: Cache
) -> None:
    folder = shown(experiment)
    metrics, table = metrics_of(folder), pd.read_parquet(folder / "predictions.parquet")
    probe, data = load_probe(folder), data_of(experiment, planted)
    assert "devices: 2" in (folder / "config.yaml").read_text()
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        rows = table[table["split"] == split]
        again = pd.concat([pd.Series(probe.predict(Inputs.of(b))[:, 0].numpy(), b.sample_id.numpy()) for b in loader])
        assert rows["sample_id"].tolist() == planted.samples.query("split == @split")["sample_id"].tolist()
        np.testing.assert_allclose(again[rows["sample_id"]], rows["prediction"], rtol=0, atol=1e-5)
        values = again[rows["sample_id"]].to_numpy()
        threshold = float(data.statistics().target_median[0])
        expected = evaluate(values, rows["target"], rows["prompt_id"], threshold=threshold)
        for entry in (entry for entry in metrics["metrics"] if entry["split"] == split):
            assert entry["estimate"] == pytest.approx(expected[entry["metric"]].estimate, abs=1e-6)
    found = next(e["estimate"] for e in metrics["metrics"] if (e["metric"], e["split"]) == ("srcc_within", "val"))
    assert found == pytest.approx(max(epoch["val_srcc_within"] for epoch in metrics["history"]), abs=1e-6)
    assert found > 0.5


def test_every_sample_is_seen_once_and_the_processes_agree(
    experiment: Experiment,
    shown: Callable[[Experiment], Path],
    planted: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell, two = shown(experiment), on_two(experiment)
    monkeypatch.setenv(NOTES, str(tmp_path))
    with seeded(two.trainer.seed):
        probe = prepared(load_probe(cell).spec, data_of(two, planted))
        fit_on_ranks(probe, RankTask.of(probe, two, planted, module=NotingModule))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert len(first["seen"]) == len(second["seen"]) == two.trainer.max_epochs
    for split in ("train", "val"):
        everything = planted.samples.query("split == @split")["sample_id"].tolist()
        for mine, theirs in zip(first["seen"], second["seen"], strict=True):
            assert sorted(mine[split] + theirs[split]) == everything
            assert abs(len(mine[split]) - len(theirs[split])) <= 6  # of one prompt
    assert first["seen"][0]["train"] != first["seen"][1]["train"]  # each epoch has its order
    for same in ("shifts", "history", "weights"):
        assert first[same] == second[same]
    assert len({tuple(shift) for shift in first["shifts"]}) > 1


@pytest.mark.parametrize(
    ("probe", "accumulate", "stop"),
    [
        ({"loss": "mse+listwise"}, 1, 3),
        ({"model": "shuffled_labels", "shuffles": 1}, 1, 0),
        ({"model": "prompt_only"}, 2, 0),  # no shifts, which are drawn for each batch
        ({"loss": "listwise+infonce+pearson", "within_prompt": False, "nce_negatives": "all"}, 1, 2),
        ({"loss": "mse+infonce", "head": "text"}, 1, 2),
    ],
)
def test_two_processes_train_the_probe_of_one(
    experiment: Experiment,
    probe_of: Callable[..., Experiment],
    planted: Cache,
    tmp_path: Path,
    probe: dict[str, Any],
    accumulate: int,
    stop: int,
) -> None:
    """One step an epoch, so that it sees the same samples, and shares of one size, so that all weigh the same."""
    experiment = probe_of(experiment, dropout=0.0, **probe)
    prompts = data_of(experiment, planted).sizes["train"]
    assert prompts % (2 * accumulate) == 0
    experiment = replace(
        experiment,
        data=replace(experiment.data, batch_prompts=prompts // accumulate),
        trainer=replace(experiment.trainer, accumulate=accumulate),
    )
    asked: list[int] = []

    def go_on(epoch: int, best: float) -> bool:
        asked.append(epoch)
        return epoch != stop

    train_cell(experiment, planted, tmp_path / "one", go_on=go_on)
    train_cell(on_two(experiment), planted, tmp_path / "two", go_on=go_on)
    one, two = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("one", "two"))
    np.testing.assert_allclose(one["prediction"], two["prediction"], rtol=0, atol=1e-5)
    assert one["prediction"].std() > 0
    assert asked == [*range(1, stop + 1)] * 2
    first, second = (metrics_of(tmp_path / name) for name in ("one", "two"))
    assert len(first["history"]) == (stop or experiment.trainer.max_epochs)
    assert first.get("stopped") == second.get("stopped")
    assert first["residency"] == second["residency"] == "memory"
    for mine, theirs in zip(first["history"], second["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-5)  # a loss of 87 has fewer digits behind the point


def test_a_killed_process_ends_the_training_with_one_sentence(
    experiment: Experiment, planted: Cache, processes: Processes, tmp_path: Path
) -> None:
    def kill(epoch: int, best: float) -> bool:
        os.kill(processes()[1].pid, signal.SIGKILL)
        return True

    with pytest.raises(ProbeError, match=r"^process 2 of 2 of this training ended by signal 9 \(SIGKILL\); out of"):
        train_cell(on_two(experiment, max_epochs=1000), planted, tmp_path / "runs" / "cell", go_on=kill)
    assert processes() == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_memory_that_runs_out_in_one_process_ends_all_and_can_be_tried_again(
    experiment: Experiment, shown: Callable[[Experiment], Path], planted: Cache, processes: Processes
) -> None:
    probe = Probe(load_probe(shown(experiment)).spec)
    with pytest.raises(MemoryError, match="can't allocate memory") as caught:
        fit_on_ranks(probe, RankTask.of(probe, on_two(experiment), planted, module=FailingModule))
    assert "in training_step" in caught.value.__notes__[0]
    assert processes() == []


@pytest.mark.parametrize(("prompts", "devices"), [(8, 2), (12, 4), (24, 3), (64, 2)])
def test_the_number_of_steps_is_that_of_one_process(
    experiment: Experiment, planted: Cache, prompts: int, devices: int
) -> None:
    experiment = replace(experiment, data=replace(experiment.data, batch_prompts=prompts))
    alone = len(data_of(experiment, planted).train_dataloader())
    for rank in range(devices):
        assert len(data_of(experiment, planted, rank=rank, world_size=devices).train_dataloader()) == alone


def test_where_arrays_lie_is_decided_once(experiment: Experiment, planted: Cache) -> None:
    assert decided(on_two(experiment), planted).data.residency == "memory"
    many = replace(experiment, trainer=replace(experiment.trainer, devices=10**9))
    assert decided(many, planted).data.residency == "stream"
    asked = replace(experiment, data=replace(experiment.data, residency="stream"))
    assert decided(asked, planted) == asked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainer.devices": 3}, r"'data.batch_prompts' is 8 and 'trainer.devices' 3.*multiple"),
        ({"trainer.devices": 16}, "multiple"),
        ({"trainer.devices": 2, "trainer.accelerator": "gpu", "engine.name": "ray"}, "set engine.gpus=2"),
    ],
)
def test_devices_that_cannot_share_a_batch_are_refused(
    experiment: Experiment, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        with_changes(experiment, changes)


def test_more_devices_than_cards_are_refused(experiment: Experiment) -> None:
    require_devices(on_two(experiment).trainer)
    with pytest.raises(ConfigError, match=r"'trainer.devices' is 1000 and \d+ GPUs can be used here"):
        require_devices(replace(experiment.trainer, devices=1000, accelerator="gpu"))
