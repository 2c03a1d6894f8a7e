"""Ranks that write down what they see; in a module of its own, because they are spawned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from probe_lab.data import Batch
from probe_lab.training.distributed import RankModule

NOTES = "PROBE_LAB_TEST_NOTES"
"""Environment variable that names the folder of the notes."""


class NotingModule(RankModule):
    """Notes the samples of each epoch and the history of its rank."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.seen: list[dict[str, list[int]]] = []
        self.shifts: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append({"train": [], "val": []})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen[-1]["train"] += batch.sample_id.tolist()
        return super().training_step(batch, batch_idx)

    def draw_shift(self) -> Tensor:
        drawn = super().draw_shift()
        self.shifts.append(drawn.tolist())
        return drawn

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen[-1]["val"] += batch.sample_id.tolist()
        super().validation_step(batch, batch_idx)

    def on_train_end(self) -> None:
        weights = [weight.double().sum().item() for weight in self.probe.parameters()]
        notes = {"seen": self.seen, "shifts": self.shifts, "history": self.history, "weights": weights}
        (Path(os.environ[NOTES]) / f"{self.global_rank}.json").write_text(json.dumps(notes))


class FailingModule(RankModule):
    """Runs out of memory on the second process, in the second epoch; the first one waits for it."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_rank == 1 and self.epoch == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().training_step(batch, batch_idx)
