"""A probe that reads the score of a preview beside its taps: never behind that score, and ahead where taps say more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probe_lab.cache import Cache, write_scores
from probe_lab.cache.layout import PreviewOf
from probe_lab.config import Experiment
from probe_lab.data import prompt_groups
from probe_lab.data.scalars import Scalar
from probe_lab.errors import ProbeError, ScoreError
from probe_lab.metrics import evaluate
from probe_lab.probes import Inputs, Probe, ProbeSpec, load_probe, save_probe
from probe_lab.probes.applied_elsewhere import ProbeReading, predict_at, refusal
from probe_lab.probes.checkpoint import DESCRIPTION
from probe_lab.training.fit_cell import train_cell
from probe_lab.training.fit_probe import prepared
from probe_lab.training.probe_data import data_of

ProbeOf = Callable[..., Experiment]
SCALARS = ["preview:good", "preview:useless"]
NOISE = 1.5
"""Of the preview's score, in standard deviations of what the taps show."""


@pytest.fixture(scope="module")
def previewed(planted: Cache, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """``planted`` with a good but noisy preview and a useless one, in units of their own."""
    folder = tmp_path_factory.mktemp("previewed") / "planted"
    shutil.copytree(planted.folder, folder)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=len(planted.samples))
    signal = planted.scores("good") / 2
    signal = signal - np.repeat(signal.reshape(-1, 6).mean(axis=1), 6)  # of the sample, not of how hard its prompt is
    good = 100 - 7 * (signal + NOISE * noise)
    for name, values in {"good": good, "useless": rng.normal(size=len(noise))}.items():
        write_scores(folder, name, np.arange(len(noise)), values, metadata={"version": "1"}, of=PreviewOf(5))
    return Cache(folder)


@pytest.fixture
def reading(experiment: Experiment, probe_of: ProbeOf, previewed: Cache) -> Experiment:
    moved = replace(experiment, cache=replace(experiment.cache, root=str(previewed.folder.parent)))
    return probe_of(moved, scalars=SCALARS)


def within(cache: Cache, experiment: Experiment, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """How well ``values``, by sample id, rank the test images of each prompt."""
    test = prompt_groups(cache, ["good"], experiment.data.split)["test"]
    prompts = cache.samples["prompt_id"].to_numpy()[test.sample_id]
    return evaluate(values[test.sample_id], test.targets[:, 0], prompts, threshold=0.0)["srcc_within"].estimate


def srcc_within(folder: Path) -> float:
    entries = json.loads((folder / "metrics.json").read_text())["metrics"]
    return next(e["estimate"] for e in entries if (e["metric"], e["split"]) == ("srcc_within", "test"))


def test_training_begins_with_what_the_scalars_say(reading: Experiment, previewed: Cache) -> None:
    """Before its first step a cnn predicts the least-squares fit within prompts, on the scalars alone."""
    data = data_of(reading, previewed)
    spec = ProbeSpec("cnn", {"x0": (4, 16, 16)}, ("good",), 5, 25, width=16, embedding=16, scalars=tuple(SCALARS))
    probe = prepared(spec, data_of(replace(reading, probe=replace(reading.probe, taps=["x0"])), previewed)).eval()
    scalars, target, prompt = data.scalars_of("train")
    apart = [
        torch.cat([values[prompt == one] - values[prompt == one].mean(dim=0) for one in range(int(prompt.max()) + 1)])
        for values in (scalars.double(), target.double())
    ]
    weight = torch.linalg.lstsq(*apart).solution
    expected = target.mean(dim=0) + (scalars.double() - scalars.double().mean(dim=0)) @ weight
    inputs = Inputs({"x0": torch.randn(len(scalars), 4, 16, 16)}, torch.full((len(scalars),), 5), scalars=scalars)
    torch.testing.assert_close(probe.predict(inputs), expected.float(), atol=2e-2, rtol=0)
    assert probe.direct is not None
    slopes = probe.direct.weight[0].tolist()
    assert slopes[0] < -0.2
    assert abs(slopes[1]) < 0.1


@pytest.mark.parametrize("model", ["cnn", "linear"])
def test_taps_and_preview_together_beat_each(
    reading: Experiment, probe_of: ProbeOf, previewed: Cache, runs: Path, model: str
) -> None:
    found = {}
    for name, scalars in {"both": SCALARS, "taps": []}.items():
        train_cell(probe_of(reading, model=model, scalars=scalars), previewed, runs / name, with_trainer=False)
        found[name] = srcc_within(runs / name)
    alone = within(previewed, reading, -previewed.preview_scores("good", 5))
    assert 0.3 < alone < 0.7
    assert found["both"] > alone + 0.05
    assert found["both"] > found["taps"] - 0.02
    loaded = load_probe(runs / "both")
    assert loaded.spec.previews == (Scalar("x0", "good"), Scalar("x0", "useless"))


def test_few_prompts_are_enough_for_a_strong_preview(
    reading: Experiment, probe_of: ProbeOf, previewed: Cache, runs: Path, tmp_path: Path
) -> None:
    """The taps are noise (``latent`` shows nothing), and the preview is the score: nothing may be lost."""
    folder = tmp_path / "exact"
    shutil.copytree(previewed.folder, folder)
    exact = previewed.scores("good")
    write_scores(folder, "good", np.arange(len(exact)), exact, metadata={"version": "1"}, of=PreviewOf(5))
    cache = Cache(folder)
    few = replace(reading, data=replace(reading.data, split=replace(reading.data.split, train=0.1, val=0.1, test=0.8)))
    for model in ("cnn", "linear"):
        asked = probe_of(few, model=model, taps=["latent"], scalars=["preview:good"], text="none")
        train_cell(asked, cache, runs / model, with_trainer=False)
        assert srcc_within(runs / model) > 0.97


def test_a_probe_with_scalars_survives_its_files(tmp_path: Path) -> None:
    taps, scalars = {"x0": (2, 8, 8)}, torch.randn(6, 1)
    inputs = Inputs({"x0": torch.randn(6, 2, 8, 8)}, torch.full((6,), 5), scalars=scalars)
    for kind in ("cnn", "linear"):
        probe = Probe(ProbeSpec(kind, taps, ("a",), 5, 25, embedding=8, width=8, scalars=("preview:a",)))  # type: ignore[arg-type]
        probe.fit_scalars(scalars, 3 * scalars + 1, torch.tensor([0, 0, 1, 1, 1, 1]))
        save_probe(tmp_path / kind, probe)
        loaded = load_probe(tmp_path / kind)
        assert loaded.spec == probe.spec
        assert torch.equal(loaded.predict(inputs), probe.eval().predict(inputs))
        with pytest.raises(ProbeError, match=r"reads preview:a and was given none: pass Inputs\.scalars"):
            loaded.predict(replace(inputs, scalars=None))
        with pytest.raises(ProbeError, match=r"shape \(6, 2\)"):
            loaded.predict(replace(inputs, scalars=torch.zeros(6, 2)))


def test_a_description_from_before_scalars_is_read(tmp_path: Path) -> None:
    save_probe(tmp_path, Probe(ProbeSpec("linear", {"x0": (2, 8, 8)}, ("a",), 5, 25)))
    content = json.loads((tmp_path / DESCRIPTION).read_text())
    assert content["spec"].pop("scalars") == []
    (tmp_path / DESCRIPTION).write_text(json.dumps(content))
    assert load_probe(tmp_path).spec.scalars == ()


def test_other_kinds_read_no_scalars() -> None:
    with pytest.raises(ProbeError, match="attention_entropy probe reads no scalars: remove preview:a"):
        ProbeSpec("attention_entropy", {"up/attention": (4, 8, 8)}, ("a",), 5, 25, scalars=("preview:a",))


def test_the_x0_baseline_takes_previews_that_are_there(
    reading: Experiment, probe_of: ProbeOf, previewed: Cache, runs: Path
) -> None:
    """No ``preview`` is given, so nothing could be decoded."""
    train_cell(probe_of(reading, model="x0_preview", scalars=[]), previewed, runs / "cell")
    assert srcc_within(runs / "cell") == pytest.approx(within(previewed, reading, previewed.preview_scores("good", 5)))
    read = json.loads((runs / "cell" / "metrics.json").read_text())["inputs"]["scores"]
    assert list(read) == ["scores/good.parquet", "previews/5/good.parquet"]
    with pytest.raises(ProbeError, match="given no preview"):
        train_cell(
            replace(probe_of(reading, model="x0_preview", scalars=[]), evaluators=["other"]), previewed, runs / "b"
        )


def test_scalars_that_were_not_made_are_an_error(
    reading: Experiment, probe_of: ProbeOf, previewed: Cache, runs: Path
) -> None:
    with pytest.raises(ScoreError, match=r"no scores of 'other' for the previews at step 5"):
        train_cell(probe_of(reading, scalars=["preview:other"]), previewed, runs / "cell")
    assert not runs.exists() or not list(runs.iterdir())


def test_transfer_reads_the_previews_of_the_other_cache(reading: Experiment, planted: Cache, previewed: Cache) -> None:
    torch.manual_seed(0)
    probe = Probe(ProbeSpec("linear", {"x0": (4, 16, 16)}, ("good",), 5, 25, scalars=("preview:good",))).eval()
    reads, ids = {"x0": "x0"}, np.arange(40, 60)
    assert refusal(probe.spec, planted, 5, reads) == "that cache has no preview:good at step 5"
    assert refusal(probe.spec, previewed, 5, reads) == ""
    found = predict_at(previewed, 5, [ProbeReading(probe, reads)], ids)[0]
    x0 = previewed.read_all("5/x0")[40:60].float()
    scalars = torch.from_numpy(previewed.preview_scores("good", 5)[40:60, None])
    expected = probe.predict(Inputs({"x0": x0}, torch.full((20,), 5), scalars=scalars))
    torch.testing.assert_close(torch.from_numpy(found), expected)
