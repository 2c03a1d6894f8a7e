"""A change of what a model does not read trains it no second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_world import ATTENTION, FakeTrainer, make_experiment

from probe_lab.config import Experiment
from probe_lab.sweep import cells, compare, read_results, run_sweep
from probe_lab.sweep.normalise import unread_keys
from probe_lab.sweep.plan import plan_sweep

MODELS = ["cnn", "linear", "x0_preview", "prompt_only"]
PROBE = {"step": 5, "taps": [ATTENTION]}


def _trained(root: Path, sweep: object, **changes: Any) -> list[str]:
    """The models of the cells that a sweep trains."""
    experiment = make_experiment(root, sweep, **changes)
    names = {cell.name: cell.experiment.probe.model for cell in cells(experiment)}
    return sorted(names[name] for name in run_sweep(experiment, trainer=FakeTrainer(root / "log", {})).done)


def test_epochs_train_no_ridge_and_no_preview_again(tmp_path: Path) -> None:
    sweep = {"probe.model": MODELS}
    assert _trained(tmp_path, sweep, probe=PROBE) == sorted(MODELS)
    longer = make_experiment(tmp_path, sweep, probe=PROBE, trainer={"max_epochs": 20, "seed": 3})
    states = plan_sweep(longer).states
    assert sorted(states.values()) == ["finished", "finished", "pending", "pending"]
    summary = run_sweep(longer, trainer=FakeTrainer(tmp_path / "log", {}))
    assert set(summary.skipped) == {name for name, state in states.items() if state == "finished"}
    table = read_results(longer.runs_folder).drop_duplicates("cell")
    assert sorted(table["model"]) == sorted(["cnn", "cnn", "prompt_only", "prompt_only", "linear", "x0_preview"])
    assert len(compare(longer.runs_folder)) == 6
    assert run_sweep(longer, trainer=FakeTrainer(tmp_path / "log", {})).done == ()


def test_only_the_losses_that_read_a_key_are_trained_again(tmp_path: Path) -> None:
    sweep = {"probe.loss": ["mse", "listwise"]}
    assert _trained(tmp_path, sweep, probe=PROBE) == ["cnn", "cnn"]
    warmer: Experiment = make_experiment(tmp_path, sweep, probe=PROBE | {"temperature": 0.9})
    summary = run_sweep(warmer, trainer=FakeTrainer(tmp_path / "log", {}))
    (skipped,) = summary.skipped
    assert ("-mse-" in skipped, len(summary.done)) == (True, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"probe": PROBE | {"within_prompt": False}},
        {"probe": PROBE | {"step": 1}},
        {"probe": PROBE | {"taps": ["up_blocks.1/activation"]}},
        {"probe": PROBE | {"evaluators": ["shapes_reward"]}},
        {"probe": PROBE, "data": {"batch_prompts": 3}},
        {"probe": PROBE, "data": {"train_prompts": 3}},
    ],
)
def test_what_a_ridge_reads_trains_it_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert _trained(tmp_path, {"probe.model": ["linear"]}, probe=PROBE) == ["linear"]
    assert _trained(tmp_path, {"probe.model": ["linear"]}, **changes) == ["linear"]


def test_keys_that_a_model_reads() -> None:
    assert {"trainer.max_epochs", "trainer.seed", "probe.loss", "probe.width"} <= unread_keys("linear", "listwise")
    assert not {"probe.within_prompt", "probe.scalars", "probe.taps", "probe.step"} & unread_keys("linear", "listwise")
    assert {"probe.temperature", "probe.shuffles"} <= unread_keys("cnn", "mse")
    assert not {"trainer.max_epochs", "probe.loss", "probe.head", "text.encoder"} & unread_keys("cnn", "mse")
    assert "text.encoder" in unread_keys("x0_preview", "mse")
    assert "probe.temperature" not in unread_keys("noisy_latent", "listwise")
    assert "probe.loss" in unread_keys("prompt_only", "listwise")
    assert "trainer.max_epochs" not in unread_keys("prompt_only", "listwise")
    assert "data.train_prompts" in unread_keys("x0_preview", "mse")
    assert "data.train_prompts" not in unread_keys("linear", "mse")


def test_the_training_seed_decides_which_prompts_a_ridge_is_trained_on(tmp_path: Path) -> None:
    def trained(sizes: list[int], seed: int) -> list[str]:
        sweep = {"probe.model": ["linear"], "data.train_prompts": sizes}
        return _trained(tmp_path, sweep, probe=PROBE, trainer={"seed": seed})

    assert trained([0, 3], 0) == ["linear"] * 2
    assert trained([0, 3], 1) == ["linear"]
    assert trained([0, 3], 1) == []
