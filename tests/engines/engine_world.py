"""Workers and trainers that die, fail or wait as told, in actors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from sweep_world import FakeTrainer

from probe_lab.engines import Site
from probe_lab.errors import DataError
from probe_lab.sweep import Cell
from probe_lab.sweep.worker import GoOn


@dataclass(frozen=True)
class Scripted:
    """Does what a task says: "die" always kills it, "die once" unless ``folder`` holds the mark of an earlier death, "x
    after y" waits until a worker has begun y."""

    folder: Path
    site: Site

    def do(self, task: str) -> Generator[object, None, str | None]:
        with open(self.folder / "log", "a") as log:
            log.write(f"{os.getpid()} {task}\n")
        if task == "about":
            yield {
                "threads": torch.get_num_threads(),
                "folder": os.getcwd(),
                "cards": os.environ["CUDA_VISIBLE_DEVICES"],
            }
        if " after " in task:
            self._wait_for(task.partition(" after ")[2])
        yield "first"
        time.sleep(0.05)  # what was said is heard before it dies
        mark = self.folder / "died"
        if task == "die" or (task == "die once" and not mark.exists()):
            mark.touch()
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "refuse":
            raise DataError("this batch is empty: add prompts")
        if task == "break":
            raise KeyError("a bug")
        yield "second"
        return "second" if task == "easy" else None

    def _wait_for(self, task: str) -> None:
        until = time.monotonic() + 120
        while task not in [begun for _, begun in scripts(self.folder)]:
            if time.monotonic() > until:
                raise TimeoutError(f"nobody has begun {task}")
            time.sleep(0.05)


def scripts(folder: Path) -> list[list[str]]:
    """Process and task of each attempt."""
    return [line.split(maxsplit=1) for line in (folder / "log").read_text().splitlines()]


@dataclass(frozen=True)
class HangsOn(FakeTrainer):
    """The first cell on the node ``node`` is never trained, and writes ``hanging`` beside the log. Others wait for
    that."""

    node: str = ""

    def check(self, cells: Sequence[Cell]) -> None:
        """Everything can be trained here."""

    def train(self, cell: Cell, folder: Path, shared: str, go_on: GoOn | None) -> None:
        mark = self.log.parent / "hanging"
        if ray.get_runtime_context().get_node_id() == self.node:
            (folder / "half.txt").write_text("half")
            mark.write_text(cell.name)
            time.sleep(600)
        while not mark.exists():
            time.sleep(0.1)
        super().train(cell, folder, shared, go_on)
