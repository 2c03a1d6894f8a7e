"""The data module under a real Trainer: epochs, checkpoints inside an epoch, prediction."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from data_world import STEP, World
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from probe_lab.data import Batch, ProbeDataModule, SplitFractions

THIRDS = SplitFractions(0.6, 0.2, 0.2)


class Recorder(LightningModule):
    """Learns nothing; remembers which samples it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.seen.append((self.current_epoch, batch.sample_id.tolist()))
        loss: Tensor = self.layer(batch.targets[:, :1]).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        self.validated += batch.sample_id.tolist()

    def predict_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> tuple[int, list[int]]:
        return dataloader_idx, batch.sample_id.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def data(world: World, **changes: Any) -> ProbeDataModule:
    values = {"batch_prompts": 2, "residency": "stream"} | changes
    return ProbeDataModule(world.cache, step=STEP, taps=["x0"], evaluators=["quality"], fractions=THIRDS, **values)


def trainer(folder: Path, **changes: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return Trainer(**(quiet | changes))


def fit(folder: Path, module: ProbeDataModule, checkpoint: Path | None = None, **changes: Any) -> Recorder:
    model = Recorder()
    trainer(folder, **changes).fit(model, datamodule=module, ckpt_path=checkpoint)
    return model


@dataclass(frozen=True)
class Unbroken:
    """What a run of three epochs sees, with so many workers."""

    workers: int
    seen: list[tuple[int, list[int]]]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_epochs_of_a_trainer_are_those_of_set_epoch(world: World, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
        model = fit(tmp_path, data(world), max_epochs=3)
    assert not [str(w.message) for w in caught if "length" in str(w.message).lower()]
    alone = data(world)
    for epoch in range(3):
        alone.set_epoch(epoch)
        expected = [batch.sample_id.tolist() for batch in alone.train_dataloader()]
        assert [samples for at, samples in model.seen if at == epoch] == expected
    assert model.validated[-len(world.split("val", THIRDS)) :] == world.split("val", THIRDS)


@pytest.fixture(scope="module", params=[0, 2])
def unbroken(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    return Unbroken(request.param, fit(folder, data(world, num_workers=request.param), max_epochs=3).seen)


@pytest.mark.parametrize("every", [3, 8, 9, 13])
def test_a_run_resumed_from_a_checkpoint_sees_what_an_unbroken_one_does(
    world: World, tmp_path: Path, unbroken: Unbroken, every: int
) -> None:
    values = {"num_workers": unbroken.workers}
    per_epoch = len(unbroken.seen) // 3
    assert per_epoch == 9, "so that 3, 8 and 13 are inside an epoch and 9 is the end of one"
    saver = ModelCheckpoint(dirpath=tmp_path, filename="stop", every_n_train_steps=every, save_top_k=-1)
    fit(
        tmp_path,
        data(world, **values),
        max_steps=every,
        callbacks=[saver],
        enable_checkpointing=True,
    )
    resumed = fit(tmp_path, data(world, **values), tmp_path / "stop.ckpt", max_epochs=3)
    assert resumed.seen == unbroken.seen[every:]


def test_predict_gives_the_three_splits_in_order(world: World, tmp_path: Path) -> None:
    found = trainer(tmp_path).predict(Recorder(), datamodule=data(world))
    assert found is not None
    for index, split in enumerate(("train", "val", "test")):
        samples = [
            sample for at, part in (pair for loader in found for pair in loader) for sample in part if at == index
        ]
        assert samples == world.split(split, THIRDS)


def test_trainer_test_reads_the_test_split(world: World, tmp_path: Path) -> None:
    class Tester(Recorder):
        def test_step(self, batch: Batch, batch_idx: int) -> None:
            self.validated += batch.sample_id.tolist()

    model = Tester()
    trainer(tmp_path).test(model, datamodule=data(world), verbose=False)
    assert model.validated == world.split("test", THIRDS)
