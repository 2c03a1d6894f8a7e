"""Probes that come with the package: a cell takes one as it is, where it can read the cache and knows no held-out
prompt."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe_lab.cache import Cache
from probe_lab.cache.text_table import write_text
from probe_lab.config import Experiment, load_experiment
from probe_lab.data.canonical import meaning
from probe_lab.data.splits import split_of
from probe_lab.errors import ProbeError
from probe_lab.generation.generate import generate
from probe_lab.generation.prompts import read_prompts
from probe_lab.probes import Probe, ProbeSpec, load_probe, save_probe, shipped
from probe_lab.probes.applied_elsewhere import ProbeReading, predict_at
from probe_lab.probes.checkpoint import DESCRIPTION, WEIGHTS
from probe_lab.runs.files import CONFIG
from probe_lab.training.as_shipped import by_shipped
from probe_lab.training.fit_cell import train_cell
from probe_lab.training.fitted import Fitting
from probe_lab.training.probe_data import data_of
from probe_lab.verbs import score_images

ProbeOf = Callable[..., Experiment]
READS = ["mid/activation", "x0"]


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet").sort_values(["evaluator", "sample_id"], ignore_index=True)


def of_both(experiment: Experiment) -> Experiment:
    return replace(experiment, evaluators=["good", "other"])


def as_shipped(probe: Path, folder: Path, captions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the probe in a folder the one that is shipped for tiny-sd."""
    (folder / "tiny-sd").mkdir(parents=True)
    for file in (DESCRIPTION, WEIGHTS, CONFIG):
        if (probe / file).exists():
            shutil.copyfile(probe / file, folder / "tiny-sd" / file)
    (folder / "tiny-sd" / shipped.CAPTIONS).write_text(captions)
    monkeypatch.setattr(shipped, "SHIPPED_PROBES", folder)


@pytest.fixture
def ship(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Trains a linear probe, makes it the shipped one, and gives the folder of its cell."""

    def shipped_as(*, captions: str = "a caption of its own\n", **changes: object) -> Path:
        cell = tmp_path / "own"
        train_cell(of_both(probe_of(experiment, model="linear", taps=READS, **changes)), planted, cell)
        as_shipped(cell, tmp_path / "shipped", captions, monkeypatch)
        return cell

    return shipped_as


def test_a_cell_has_the_predictions_of_the_shipped_probe(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, ship: Callable[..., Path], tmp_path: Path
) -> None:
    own = ship()
    both = of_both(experiment)
    train_cell(probe_of(both, model="shipped", taps=READS[::-1]), planted, tmp_path / "both")
    pd.testing.assert_frame_equal(predictions(tmp_path / "both"), predictions(own))
    train_cell(probe_of(both, model="shipped", taps=READS, evaluators=["other"]), planted, tmp_path / "second")
    expected = predictions(own).query("evaluator == 'other'").reset_index(drop=True)
    pd.testing.assert_frame_equal(predictions(tmp_path / "second"), expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": 2}, "the shipped probe reads step 5 and the cell step 2: set probe.step"),
        ({"taps": ["x0"]}, "the shipped probe reads other taps: set probe.taps=[mid/activation,x0]"),
        ({"evaluators": ["good", "other"]}, "the shipped probe does not predict 'other': "),
    ],
)
def test_a_cell_that_asks_for_something_else_is_refused(
    experiment: Experiment,
    probe_of: ProbeOf,
    stepped: Cache,
    ship: Callable[..., Path],
    tmp_path: Path,
    changes: dict[str, object],
    reason: str,
) -> None:
    ship(evaluators=["good"])
    cell = probe_of(of_both(experiment), **{"model": "shipped", "taps": READS, "evaluators": ["good"], **changes})
    cell = replace(cell, cache=replace(cell.cache, root=str(stepped.folder.parent), name=stepped.folder.name))
    with pytest.raises(ProbeError, match=re.escape(reason)):
        train_cell(cell, stepped, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


def test_arrays_of_another_size_are_refused(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = ProbeSpec("linear", {"mid/activation": (6, 4, 4), "x0": (4, 16, 16)}, ("good",), 5, 25)
    save_probe(tmp_path / "smaller", Probe(smaller))
    as_shipped(tmp_path / "smaller", tmp_path / "shipped", "a caption\n", monkeypatch)
    cell = probe_of(experiment, model="shipped", taps=READS, evaluators=["good"])
    reason = r"cannot read .*planted, mid/activation is \[6, 8, 8\] there and was \[6, 4, 4\]: train a probe"
    with pytest.raises(ProbeError, match=reason):
        train_cell(cell, planted, tmp_path / "cell")


def test_pictures_that_are_made_otherwise_are_refused(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, ship: Callable[..., Path], tmp_path: Path
) -> None:
    ship()
    cell = probe_of(experiment, model="shipped", taps=READS)
    guided = replace(cell, sampling=replace(cell.sampling, guidance=7.0))
    with pytest.raises(ProbeError, match=r"was trained with sampling.guidance=2.0 and the cell has 7.0: set it so"):
        train_cell(guided, planted, tmp_path / "cell")
    normalized = replace(cell, capture=replace(cell.capture, size=8))
    with pytest.raises(ProbeError, match=r"was trained with capture.size=0 and the cell has 8"):
        train_cell(normalized, planted, tmp_path / "cell")


def test_text_of_another_encoder_is_refused(
    experiment: Experiment, probe_of: ProbeOf, planted: Cache, ship: Callable[..., Path], tmp_path: Path
) -> None:
    ship()
    folder = tmp_path / "planted"
    shutil.copytree(planted.folder, folder)
    text = planted.text("backbone")
    write_text(folder, "other", text, prompts=len(text["tokens"]), metadata={})
    cell = probe_of(experiment, model="shipped", taps=READS)
    with pytest.raises(ProbeError, match=r"reads text of backbone: set text.encoder=backbone"):
        train_cell(replace(cell, text=replace(cell.text, encoder="other")), Cache(folder), tmp_path / "cell")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_prompts_that_taught_it_are_not_held_out(
    experiment: Experiment,
    probe_of: ProbeOf,
    planted: Cache,
    ship: Callable[..., Path],
    tmp_path: Path,
    split: str,
) -> None:
    samples = planted.samples
    prompt = samples["prompt"][samples["split"] == split].iloc[0]
    ship(captions=f"another caption\n{prompt.upper()}!\n")
    cell = probe_of(experiment, model="shipped", taps=READS)
    if split == "train":
        train_cell(cell, planted, tmp_path / "cell")
        assert len(predictions(tmp_path / "cell"))
        return
    with pytest.raises(ProbeError, match=r"was trained on 1 of the \d+ validation and test prompts: leave them out by"):
        train_cell(cell, planted, tmp_path / "cell")


def test_a_backbone_without_one_is_named() -> None:
    with pytest.raises(ProbeError, match=r"no probe is shipped for the backbone 'tiny-sdd': did you mean 'tiny-sd'\?"):
        shipped.shipped_probe("tiny-sdd")


@pytest.mark.parametrize("backbone", shipped.shipped_backbones())
def test_those_in_the_package_are_small_and_were_taught_by_no_held_out_caption_of_the_quick_start(
    backbone: str,
) -> None:
    folder = shipped.shipped_probe(backbone)
    assert (folder / WEIGHTS).stat().st_size <= 6 * 10**6
    assert load_probe(folder).spec.backbone == backbone
    taught = shipped.taught_by(folder)
    assert len(taught) > 500
    for name in ("quickstart", "quickstart_sd3"):
        experiment = load_experiment(name)
        prompts = read_prompts(experiment.prompts, experiment.seed)
        held_out = {meaning(prompt) for prompt in prompts if split_of(prompt, experiment.data.split) != "train"}
        assert len(held_out) > 50
        assert not held_out & taught


@pytest.mark.parametrize("backbone", shipped.shipped_backbones())
def test_it_ranks_the_seeds_of_captions_that_it_never_saw(backbone: str, tmp_path: Path) -> None:
    folder = shipped.shipped_probe(backbone)
    probe = load_probe(folder)
    taps = ",".join(probe.spec.taps)
    experiment = load_experiment(
        {"tiny-sd": "quickstart", "tiny-sd3": "quickstart_sd3"}[backbone],
        [
            "prompts.count=4",
            f"prompts.exclude=[{folder / shipped.CAPTIONS}]",
            f"capture.steps=[{probe.spec.step}]",
            f"capture.taps=[{taps}]",
            f"probe.taps=[{taps}]",
            f"probe.step={probe.spec.step}",
            "probe.model=shipped",
            "evaluators=[shapes_reward]",
            "data.split={train: 0, val: 0, test: 1}",
            f"cache.root={tmp_path}",
            "sweep=[]",
            "workers=1",
        ],
    )
    generate(experiment, lambda done, total: None, lambda plan: None)
    score_images(experiment)
    cache = Cache(experiment.cache_folder)
    table = cache.samples.assign(score=cache.scores("shapes_reward"))
    reading = ProbeReading(probe, {tap: tap for tap in probe.spec.taps})
    (predicted,) = predict_at(cache, probe.spec.step, [reading], table["sample_id"].to_numpy())
    table["prediction"] = predicted[:, probe.spec.evaluators.index("shapes_reward")]
    data = data_of(experiment, cache)
    predict = by_shipped(Fitting(experiment, cache, data))
    for batch in data.test_dataloader():
        expected = table["prediction"].to_numpy()[batch.sample_id.numpy()]
        np.testing.assert_allclose(predict(batch)[:, 0].numpy(), expected, atol=1e-4)
    ranks = [rows["prediction"].corr(rows["score"], method="spearman") for _, rows in table.groupby("prompt_id")]
    assert sum(ranks) / len(ranks) > 0.3
