"""A world for sweeps without tensors: an experiment, and a trainer that writes a cell's files or misbehaves
as told."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from probe_lab.config import Experiment, build_experiment
from probe_lab.sweep import Cell
from probe_lab.sweep.worker import GoOn

ATTENTION = "up_blocks.1.attentions.0/attention"
ACTIVATION = "up_blocks.1/activation"


def make_experiment(root: Path, sweep: object = None, **changes: Any) -> Experiment:
    """An experiment whose files lie in ``root``, without tracking; ``changes`` are top-level keys."""
    content = {
        "name": "tiny",
        "backbone": "tiny-sd",
        "capture": {"steps": [1, 5], "taps": [ATTENTION, ACTIVATION]},
        "probe": {"step": 5, "taps": [ATTENTION]},
        "evaluators": ["shapes_reward", "shapes_binding"],
        "tracking": {"uri": ""},
        "runs": str(root / "runs"),
        "cache": {"root": str(root / "data_cache")},
        "sweep": sweep,
    }
    return build_experiment(OmegaConf.create(content), OmegaConf.create(changes))


def write_cell(cell: Cell, folder: Path, estimate: float, stopped: int = 0) -> None:
    """The files of a finished cell, with metrics that depend only on ``estimate``; or of one that halving stopped."""
    probe = cell.experiment.probe
    entries = [
        {
            "evaluator": evaluator,
            "split": split,
            "metric": metric,
            "estimate": None if metric == "top1" else estimate,
            "lower": None if metric == "top1" else estimate - 0.1,
            "upper": None if metric == "top1" else estimate + 0.1,
            "prompts": 30,
            "tied": 2,
        }
        for evaluator in cell.experiment.probe_evaluators
        for split in ("val", "test")
        for metric in ("srcc_within", "srcc", "top1")
    ]
    content = {
        "cell": cell.name,
        "config_hash": "0",
        "model": probe.model,
        "step": probe.step,
        "taps": probe.taps,
        "loss": probe.loss,
        "seed": cell.experiment.trainer.seed,
        "seconds": 0.5,
        "metrics": entries,
        "history": [{"epoch": e, "train_loss": 1.0 - e / 10, "val_srcc_within": e / 10} for e in range(3)],
    }
    if stopped:
        content["stopped"] = {"by": "halving", "epochs": stopped}
    (folder / "config.yaml").write_text(cell.experiment.to_yaml())
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    (folder / "metrics.json").write_text(json.dumps(content))


@dataclass(frozen=True)
class FakeTrainer:
    """Appends a line to ``log`` per training; ``behaviour`` maps a training seed to "fail", "kill" or
    "hang". With halving a cell trains nine epochs, and its value is its seed."""

    log: Path
    behaviour: Mapping[int, str]
    seconds: float = 0.0

    def check(self, cells: Sequence[Cell]) -> None:
        """Everything can be trained here."""

    def load(self, cell: Cell, workers: int) -> str:
        self._note(f"load {cell.arrays}")
        return f"{cell.arrays}"

    def train(self, cell: Cell, folder: Path, shared: str, go_on: GoOn | None) -> None:
        assert shared == f"{cell.arrays}"
        self._note(f"train {cell.name}")
        seed = cell.experiment.trainer.seed
        (folder / "half.txt").write_text("half")
        what = self.behaviour.get(seed, "")
        if what == "fail":
            raise ValueError(f"seed {seed} is bad\nand a second line")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "abort":
            os.abort()
        if what == "exit":
            os._exit(0)
        if what == "linger":
            threading.Thread(target=time.sleep, args=(600,)).start()
            raise SystemExit
        if what == "hang":
            (self.log.parent / "hanging").touch()
            time.sleep(600)
        time.sleep(self.seconds)
        epochs = next((e for e in range(1, 9) if go_on and not go_on(cell.name, e, float(seed))), 9)
        write_cell(cell, folder, seed / 10, stopped=epochs if epochs < 9 else 0)

    def _note(self, text: str) -> None:
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {text}\n")


@dataclass(frozen=True)
class CardTrainer(FakeTrainer):
    """Notes which GPU its process may use."""

    def train(self, cell: Cell, folder: Path, shared: str, go_on: GoOn | None) -> None:
        self._note(f"card {os.environ['CUDA_VISIBLE_DEVICES']}")
        super().train(cell, folder, shared, go_on)


@dataclass(frozen=True)
class ApartTrainer(FakeTrainer):
    """Its cells have 0.9 in every metric on validation, whatever they have on the test split."""

    def train(self, cell: Cell, folder: Path, shared: str, go_on: GoOn | None) -> None:
        super().train(cell, folder, shared, go_on)
        metrics = json.loads((folder / "metrics.json").read_text())
        numbers = {"estimate": 0.9, "lower": 0.8, "upper": 1.0}
        metrics["metrics"] = [e | (numbers if e["split"] == "val" else {}) for e in metrics["metrics"]]
        (folder / "metrics.json").write_text(json.dumps(metrics))


def trained(log: Path) -> list[str]:
    """Names of the cells that were trained, in order, with repetitions."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[2] for line in lines if line.split()[1] == "train"]
