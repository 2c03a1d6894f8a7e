"""Whole cells on a cache with a planted signal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.text_table import write_text
from probe_lab.config import Experiment, Metrics, Text
from probe_lab.data import load_resident
from probe_lab.errors import CacheError, ConfigError, DataError, ProbeError, ScoreError
from probe_lab.metrics import evaluate
from probe_lab.probes import Inputs, load_probe
from probe_lab.training.fit_cell import config_hash, train_cell
from probe_lab.training.lightning_module import ProbeModule

ProbeOf = Callable[..., Experiment]
FILES = ["config.yaml", "metrics.json", "predictions.parquet", "probe.json", "probe.safetensors"]


def preview(x0: Tensor, prompts: list[str], evaluators: Sequence[str]) -> Tensor:
    assert len(prompts) == len(x0)
    assert prompts[0].startswith("planted prompt ")
    return x0[:, 1, 8:].mean(dim=(1, 2))[:, None].repeat(1, len(evaluators))


def cell(experiment: Experiment, cache: Cache, folder: Path, **options: Any) -> dict[str, Any]:
    train_cell(experiment, cache, folder, **options)
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def value(metrics: dict[str, Any], metric: str, split: str = "test", evaluator: str = "good") -> float:
    (found,) = [
        entry["estimate"]
        for entry in metrics["metrics"]
        if (entry["metric"], entry["split"], entry["evaluator"]) == (metric, split, evaluator)
    ]
    return float(found)


@pytest.fixture(scope="module")
def trained(planted: Cache, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], Path]:
    """Trains each experiment once for all tests of this file."""
    folder, done = tmp_path_factory.mktemp("cells"), {}

    def train(experiment: Experiment) -> Path:
        name = f"{experiment.probe.model}-{config_hash(experiment)}"
        if name not in done:
            train_cell(experiment, planted, folder / name, preview=preview)
            done[name] = folder / name
        return done[name]

    return train


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


@pytest.mark.parametrize(
    ("model", "at_least"),
    [
        ("cnn", 0.5),
        ("linear", 0.5),
        ("attention_entropy", 0.5),
        ("x0_preview", 0.9),
        ("prompt_only", None),
        ("noisy_latent", None),
        ("shuffled_labels", None),
    ],
)
def test_every_model_finds_what_is_there_for_it(
    experiment: Experiment,
    probe_of: ProbeOf,
    trained: Callable[[Experiment], Path],
    model: str,
    at_least: float | None,
) -> None:
    fewer = {"shuffles": 3} if model == "shuffled_labels" else {}
    folder = trained(probe_of(experiment, model=model, **fewer))
    names = sorted(path.name for path in folder.iterdir())
    assert names == (FILES if model != "x0_preview" else FILES[:3])
    found = value(metrics_of(folder), "srcc_within")
    assert (found >= at_least) if at_least is not None else (abs(found) < 0.35)
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("loss", "at_least"), [("mse", 0.5), ("listwise+infonce", 0.25), ("pearson", 0.5)])
def test_objectives_find_the_signal(
    experiment: Experiment,
    probe_of: ProbeOf,
    trained: Callable[[Experiment], Path],
    loss: str,
    at_least: float,
) -> None:
    assert value(metrics_of(trained(probe_of(experiment, loss=loss))), "srcc_within") > at_least


def test_the_files_agree_with_each_other(
    experiment: Experiment, trained: Callable[[Experiment], Path], planted: Cache
) -> None:
    folder = trained(experiment)
    metrics, table = metrics_of(folder), pd.read_parquet(folder / "predictions.parquet")
    columns = ["sample_id", "prompt_id", "seed", "split", "evaluator", "target", "prediction"]
    assert list(table.columns) == columns
    samples = planted.samples.set_index("sample_id").loc[table["sample_id"]]
    assert (
        samples[["prompt_id", "seed", "split"]].to_numpy() == table[["prompt_id", "seed", "split"]].to_numpy()
    ).all()
    assert set(table["split"]) == {"val", "test"}
    np.testing.assert_array_equal(table["target"], planted.scores("good")[table["sample_id"]])

    probe, test = load_probe(folder), table[table["split"] == "test"]
    train = planted.samples["split"] == "train"
    threshold = np.median(planted.scores("good")[train.to_numpy()])
    expected = evaluate(test["prediction"], test["target"], test["prompt_id"], threshold=float(threshold))
    for name, interval in expected.items():
        assert value(metrics, name) == pytest.approx(interval.estimate)
    known = {"model": "cnn", "step": 5, "taps": experiment.probe.taps, "loss": "listwise", "seed": 0}
    assert {key: metrics[key] for key in known} == known
    assert metrics["cell"] == folder.name
    assert [entry["epoch"] for entry in metrics["history"]] == list(range(6))
    kept = max(entry["val_srcc_within"] for entry in metrics["history"])
    assert value(metrics, "srcc_within", "val") == pytest.approx(kept, abs=1e-6)  # the best epoch is what is kept
    assert probe.spec.cache == "planted"
    assert probe.spec.backbone == "tiny-sd"


def test_predictions_have_the_units_of_the_scores(
    experiment: Experiment, trained: Callable[[Experiment], Path]
) -> None:
    table = pd.read_parquet(trained(experiment) / "predictions.parquet")
    assert abs(table["prediction"].mean() - table["target"].mean()) < 0.5 * table["target"].std()
    assert 0.1 < table["prediction"].std() / table["target"].std() < 1.5


@pytest.mark.parametrize("with_trainer", [True, False])
@pytest.mark.parametrize("loss", ["listwise", "mse"])
def test_units_of_a_ranking_probe_are_those_of_validation_prompts(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, runs: Path, loss: str, with_trainer: bool
) -> None:
    """The line through its validation predictions is the diagonal; on training prompts it would be another."""
    asked = probe_of(experiment, loss=loss)
    cell(asked, planted, runs / "cell", with_trainer=with_trainer)
    table = pd.read_parquet(runs / "cell" / "predictions.parquet")
    known = table[table["split"] == "val"]
    slope, intercept = np.polyfit(known["prediction"], known["target"], 1)
    unknown = pd.DataFrame(table[table["split"] == "test"])
    assert abs(np.polyfit(unknown["prediction"], unknown["target"], 1)[0] - 1) > 0.01
    exact = abs(slope - 1) < 1e-3 and abs(intercept) < 1e-2
    assert exact == (loss == "listwise")


def test_standardisation_uses_the_training_split_only(
    experiment: Experiment, trained: Callable[[Experiment], Path], planted: Cache
) -> None:
    probe, train = load_probe(trained(experiment)), (planted.samples["split"] == "train").to_numpy()
    scores = planted.scores("good")[train]
    assert probe.target_mean.item() == pytest.approx(scores.mean(), rel=1e-5)
    assert probe.target_std.item() == pytest.approx(scores.std(), rel=1e-5)
    x0 = planted.read_all("5/x0")[torch.tensor(train)].double()
    index = list(probe.spec.taps).index("x0")
    state = probe.encoder.state_dict()
    torch.testing.assert_close(
        state[f"standardise.{index}.mean"].flatten(), x0.mean(dim=(0, 2, 3)).float(), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        1 / state[f"standardise.{index}.scale"].flatten(),
        x0.std(dim=(0, 2, 3), correction=0).float(),
        atol=1e-5,
        rtol=1e-4,
    )


def test_the_prompt_alone_cannot_rank_seeds(
    experiment: Experiment, probe_of: ProbeOf, trained: Callable[[Experiment], Path]
) -> None:
    folder = trained(probe_of(experiment, model="prompt_only"))
    table = pd.read_parquet(folder / "predictions.parquet")
    assert (np.ptp(table.groupby("prompt_id")["prediction"].agg(["min", "max"]), axis=1) == 0).all()
    assert value(metrics_of(folder), "srcc_within") == 0.0
    assert value(metrics_of(folder), "srcc") > 0.4  # though most of the global correlation is there


def test_the_same_seed_gives_the_same_predictions_and_leaves_the_random_state_alone(
    experiment: Experiment, planted: Cache, runs: Path
) -> None:
    short = replace(experiment, trainer=replace(experiment.trainer, max_epochs=1))
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(tables))
        before = torch.get_rng_state()
        train_cell(replace(short, trainer=replace(short.trainer, seed=seed)), planted, runs / name)
        assert torch.equal(torch.get_rng_state(), before)
        tables.append(pd.read_parquet(runs / name / "predictions.parquet"))
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    assert not tables[0]["prediction"].equals(tables[2]["prediction"])


def test_several_evaluators_and_shared_arrays(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, runs: Path
) -> None:
    both = replace(probe_of(experiment, text="pooled"), evaluators=["good", "other"])
    resident = load_resident(planted, [f"5/{tap}" for tap in both.probe.taps])
    metrics = cell(both, planted, runs / "both", resident=resident)
    assert value(metrics, "srcc_within") > 0.4
    assert value(metrics, "srcc_within", evaluator="other") > 0.4  # its scores run the other way


def test_a_failure_in_training_leaves_nothing(
    experiment: Experiment, planted: Cache, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ProbeModule) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(ProbeModule, "on_validation_epoch_end", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        train_cell(experiment, planted, runs / "cell")
    assert list(runs.iterdir()) == []


def test_an_earlier_cell_stays_until_the_new_one_is_complete(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, runs: Path
) -> None:
    linear = probe_of(experiment, model="linear")
    train_cell(linear, planted, runs / "cell")
    before = (runs / "cell" / "metrics.json").read_bytes()
    with pytest.raises(ScoreError):
        train_cell(replace(linear, evaluators=["missing"]), planted, runs / "cell")
    assert (runs / "cell" / "metrics.json").read_bytes() == before
    train_cell(probe_of(experiment, model="x0_preview"), planted, runs / "cell", preview=preview)
    assert sorted(path.name for path in (runs / "cell").iterdir()) == FILES[:3]
    assert [path.name for path in runs.iterdir()] == ["cell"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"step": 6}, DataError, "no step 6"),
        ({"taps": ["up/atention"]}, DataError, "did you mean 'up/attention'"),
        ({"model": "attention_entropy", "taps": ["x0"]}, ProbeError, "reads attention"),
        ({"model": "x0_preview"}, ProbeError, "given no preview"),
        ({"loss": "infonce"}, ConfigError, "trains no predictions"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    experiment: Experiment,
    probe_of: ProbeOf,
    planted: Cache,
    runs: Path,
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        train_cell(probe_of(experiment, **changes), planted, runs / "cell")
    assert not runs.exists() or list(runs.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(
    experiment: Experiment, planted: Cache, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProbeError, match=r"cannot write .*: Not a directory"):
        train_cell(experiment, planted, tmp_path / "file" / "cell")


def test_a_loaded_probe_repeats_the_predictions_of_its_cell(
    experiment: Experiment, trained: Callable[[Experiment], Path], planted: Cache
) -> None:
    folder = trained(experiment)
    table = pd.read_parquet(folder / "predictions.parquet").set_index("sample_id")
    probe, text, sample = load_probe(folder), planted.text("backbone"), int(table.index[0])
    prompt = int(table.loc[sample, "prompt_id"])
    inputs = Inputs(
        features={tap: planted.read_all(f"5/{tap}")[sample : sample + 1] for tap in probe.spec.taps},
        step=torch.tensor([5]),
        text=text["embedding"][prompt : prompt + 1],
        tokens=text["tokens"][prompt : prompt + 1],
        token_mask=text["token_mask"][prompt : prompt + 1].bool(),
    )
    assert probe.predict(inputs).item() == pytest.approx(table.loc[sample, "prediction"], rel=1e-4)


def test_the_text_is_that_of_the_experiments_encoder(
    planted: Cache, experiment: Experiment, probe_of: ProbeOf, tmp_path: Path
) -> None:
    found = planted.text("backbone")
    wider = {name: tensor.repeat(1, 1, 2) if name == "tokens" else tensor for name, tensor in found.items()}
    write_text(planted.folder, "theirs", wider, prompts=len(found["tokens"]))
    other = replace(probe_of(experiment, model="prompt_only"), text=Text("theirs"))
    cell(other, planted, tmp_path / "cell")
    spec = load_probe(tmp_path / "cell").spec
    assert (spec.text_encoder, spec.token_dim) == ("theirs", 2 * found["tokens"].shape[2])
    with pytest.raises(CacheError, match=r"no text of 'clip'.*probe-lab score"):
        cell(replace(other, text=Text("clip")), planted, tmp_path / "none")


def test_the_hash_sees_what_matters(experiment: Experiment, probe_of: ProbeOf) -> None:
    assert config_hash(experiment) == config_hash(replace(experiment, name="other", runs="elsewhere"))
    assert config_hash(experiment) != config_hash(probe_of(experiment, margin=0.1))


def test_the_threshold_of_the_auc_is_the_configs(experiment: Experiment, planted: Cache, runs: Path) -> None:
    experiment = replace(experiment, probe=replace(experiment.probe, model="linear"))
    median = cell(experiment, planted, runs / "median")
    high = cell(replace(experiment, metrics=Metrics(auc_threshold=6.5)), planted, runs / "high")
    table = pd.read_parquet(runs / "high" / "predictions.parquet").query("split == 'test'")
    good, bad = (table.loc[(table["target"] > 6.5) == kind, "prediction"].to_numpy() for kind in (True, False))
    assert value(high, "auc") == pytest.approx((good[:, None] > bad[None]).mean(), abs=1e-6)
    assert value(high, "auc") != value(median, "auc")
