"""What happens when a batch does not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import Batch
from probe_lab.training.fit_cell import train_cell
from probe_lab.training.lightning_module import ProbeModule
from probe_lab.training.out_of_memory import Reduction, is_out_of_memory, within_memory


def test_too_large_a_batch_is_halved_and_recorded(
    experiment: Experiment, planted: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ProbeModule.training_step

    def cramped(self: ProbeModule, batch: Batch, batch_idx: int) -> Tensor:
        if len(batch.group.unique()) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ProbeModule, "training_step", cramped)

    def train(reduction: Reduction) -> None:
        train_cell(experiment, planted, tmp_path / "cell", with_trainer=False, reduction=reduction)

    within_memory(experiment, train)
    metrics = json.loads((tmp_path / "cell" / "metrics.json").read_text())
    assert metrics["reduced"] == {
        "batch_prompts": 2,
        "accumulate": 4,
        "error": "CUDA out of memory. Tried to allocate 20 GiB",
    }
    assert "batch_prompts: 8" in (tmp_path / "cell" / "config.yaml").read_text()


def test_what_fits_nowhere_is_an_error_and_so_is_anything_else(experiment: Experiment) -> None:
    tried: list[int] = []

    def full(reduction: Reduction) -> None:
        tried.append(reduction.applied(experiment).data.batch_prompts)
        raise MemoryError

    with pytest.raises(MemoryError):
        within_memory(experiment, full)
    assert tried == [8, 4, 2, 1]

    def broken(reduction: Reduction) -> None:
        tried.append(0)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(experiment, broken)
    assert tried == [8, 4, 2, 1, 0]


@pytest.mark.parametrize(("devices", "expected"), [(1, [8, 4, 2]), (2, [8, 4, 2])])
def test_infonce_keeps_two_prompts_in_a_batch(
    experiment: Experiment, probe_of: Callable[..., Experiment], devices: int, expected: list[int]
) -> None:
    contrasting = probe_of(experiment, loss="listwise+infonce")
    contrasting = replace(contrasting, trainer=replace(contrasting.trainer, devices=devices))
    tried: list[int] = []

    def full(reduction: Reduction) -> None:
        tried.append(reduction.applied(contrasting).data.batch_prompts)
        raise MemoryError

    with pytest.raises(MemoryError):
        within_memory(contrasting, full)
    assert tried == expected


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("a bug"))
