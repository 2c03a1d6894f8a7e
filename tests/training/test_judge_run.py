"""Picture judges of a cache: trained on labels, resumed, and read by cells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probe_lab.cache import Cache, describe, verify
from probe_lab.cache.judge_files import JudgeFiles
from probe_lab.cache.label_files import CAPTIONS, Captions, LabelScores, write_captions, write_labels
from probe_lab.cache.layout import FINISHED, LabelsOf
from probe_lab.cache.text_table import write_text
from probe_lab.config import Experiment, JudgeConfig
from probe_lab.config.labels_section import LabelsConfig
from probe_lab.data import SplitFractions, prompt_groups
from probe_lab.data.provenance import CachesNow
from probe_lab.data.text_lookup import TextTable
from probe_lab.errors import CacheError, ProbeError, ScoreError
from probe_lab.metrics import within_prompt_estimate
from probe_lab.probes import Inputs, load_probe
from probe_lab.probes.probe import Probe
from probe_lab.progress import OnProgress
from probe_lab.training.cross_fitted import validation_predictions
from probe_lab.training.fit_cell import train_cell
from probe_lab.training.judge_batches import LabelledPictures
from probe_lab.training.judge_run import judge_settings, train_judges
from probe_lab.training.judge_scores import judge_weights, judged_scores
from probe_lab.training.probe_data import data_of
from probe_lab.training.validated_batches import Validated

SPLIT = SplitFractions(0.7, 0.1, 0.2)

ProbeOf = Callable[..., Experiment]


@pytest.fixture(scope="module")
def labelled(planted: Cache, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """``planted`` with labels at step 5 and of finished pictures: the score itself, and its negative under a caption of
    other words."""
    pictures: tuple[LabelsOf, ...] = (5, FINISHED)
    folder = tmp_path_factory.mktemp("labelled") / "planted"
    shutil.copytree(planted.folder, folder)
    samples = planted.samples
    train = samples[samples["split"] == "train"]
    prompts = train.drop_duplicates("prompt_id")
    rows = [
        (prompt_id, caption, f"{text}{' not' * caption}", "negated" * caption)
        for prompt_id, text in zip(prompts["prompt_id"], prompts["prompt"], strict=True)
        for caption in (0, 1)
    ]
    captions = Captions(pd.DataFrame(rows, columns=["prompt_id", "caption", "prompt", "edit"]), {"split": str(SPLIT)})
    write_captions(folder, captions, planted.identity)
    own = torch.tensor(captions.table["prompt_id"].to_numpy())
    text = {name: values[own].clone() for name, values in planted.text("backbone").items()}
    text["tokens"][1::2, 0] = 3.0
    metadata = {CAPTIONS: captions.sha256}
    write_text(folder, "backbone", text, prompts=len(rows), metadata=metadata, of_labels=True)
    ids = train["sample_id"].to_numpy()
    score = planted.scores("good")[ids]
    both = np.stack([score, 10 - score], axis=1).astype(np.float32)
    for of in pictures:
        write_labels(folder, "good", of, LabelScores(ids, both, metadata), planted.identity)
    return Cache(folder)


@pytest.fixture
def judging(experiment: Experiment, probe_of: ProbeOf, labelled: Cache) -> Experiment:
    return replace(
        probe_of(experiment, judge=True, taps=["x0"]),
        cache=replace(experiment.cache, root=str(labelled.folder.parent)),
        labels=LabelsConfig(captions=1, steps=[5]),
        judge=JudgeConfig(batches=120, prompts=3, captions=2, pictures=0, learning_rate=3e-3),
    )


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


def trained(experiment: Experiment, *, stop: int = 10**9) -> list[str]:
    """The lines of ``train_judges``; KeyboardInterrupt once so many batches are trained."""

    @contextmanager
    def watching(what: str, unit: str) -> Iterator[OnProgress]:
        def update(done: int, total: int) -> None:
            if unit == "batches" and done >= stop:
                raise KeyboardInterrupt

        yield update

    return list(train_judges(experiment, watching=watching))


def of_judges(folder: Path) -> dict[str, str]:
    """What ``verify`` says of the files of judges."""
    return {each.file: each.message for each in verify(folder) if each.file.startswith("judges")}


def weights(cache: Cache) -> dict[str, torch.Tensor]:
    return JudgeFiles(cache.folder, cache.identity, 0).read("weights")[0]


def test_a_judge_ranks_pictures_of_prompts_that_it_never_saw(judging: Experiment, labelled: Cache) -> None:
    assert "trained (" in trained(judging)[0].replace(": trained", " trained")
    answers = judged_scores(judging, labelled).numpy()
    test = prompt_groups(labelled, ["good"], judging.data.split)["test"]
    prompts = labelled.samples["prompt_id"].to_numpy()[test.sample_id]
    assert answers.shape == (len(labelled.samples), 2)  # of the decoded prediction, of the finished picture
    for answer in answers[test.sample_id].T:
        assert within_prompt_estimate(answer, test.targets[:, 0], prompts, "srcc_within") > 0.5
    before = weights(labelled)
    assert "trained before" in trained(judging)[0]
    assert all(torch.equal(value, before[name]) for name, value in weights(labelled).items())


def test_an_interrupted_training_goes_on_to_the_same_judge(
    judging: Experiment, labelled: Cache, tmp_path: Path
) -> None:
    short = replace(judging, judge=replace(judging.judge, batches=8))
    judges = []
    for name, stop in (("whole", 10**9), ("interrupted", 3)):
        shutil.copytree(labelled.folder, tmp_path / name / "planted")
        moved = replace(short, cache=replace(short.cache, root=str(tmp_path / name)))
        if name == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                trained(moved, stop=stop)
            assert JudgeFiles(tmp_path / name / "planted", labelled.identity, 0).path("training").exists()
        trained(moved)
        cache = Cache(tmp_path / name / "planted")
        assert not JudgeFiles(cache.folder, cache.identity, 0).path("training").exists()
        judges.append(weights(cache))
    for name, value in judges[0].items():
        torch.testing.assert_close(judges[1][name], value, rtol=0, atol=0)


@pytest.mark.parametrize("model", ["cnn", "linear"])
def test_a_cell_reads_its_judge_and_carries_it_along(
    judging: Experiment, probe_of: ProbeOf, labelled: Cache, runs: Path, model: str
) -> None:
    trained(judging)
    cell = probe_of(judging, model=model, taps=["up/attention", "x0"] if model == "cnn" else ["x0"])
    train_cell(cell, labelled, runs / model, with_trainer=False)
    probe = load_probe(runs / model)
    assert probe.spec.judge
    assert probe.judge is not None
    assert probe.blend is not None
    assert probe.blend.judge.sum() > 0
    assert not set(dict(probe.named_parameters())) & {f"judge.{name}" for name in weights(labelled)}
    table = pd.read_parquet(runs / model / "predictions.parquet").set_index("sample_id")["prediction"]
    batch = next(iter(data_of(cell, labelled).evaluation_dataloader("test")))
    text = TextTable.load(labelled, "backbone").rows(batch.group)
    alone = Inputs(batch.features, batch.step, None, *text)  # as a selection has them: no scores that were stored
    torch.testing.assert_close(
        probe.predict(alone)[:, 0],
        torch.tensor(table[batch.sample_id.tolist()].to_numpy(), dtype=torch.float32),
        rtol=1e-4,
        atol=1e-4,
    )


def test_one_pass_over_validation_batches_serves_shares_and_predictions(
    judging: Experiment, probe_of: ProbeOf, labelled: Cache, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(judging)
    cell = probe_of(judging, model="cnn", taps=["x0"])
    answered: list[int] = []
    answer = Probe.judged

    def counted(probe: Probe, inputs: Inputs) -> torch.Tensor:
        answered.append(len(inputs.step))
        return answer(probe, inputs)

    with monkeypatch.context() as patched:
        patched.setattr(Probe, "judged", counted)
        train_cell(cell, labelled, runs / "once", with_trainer=False)
    groups = prompt_groups(labelled, ["good"], cell.data.split)
    count = {split: len(groups[split].sample_id) for split in ("val", "test")}
    assert sum(answered) == (cell.trainer.max_epochs + 1) * count["val"] + count["test"]
    probe = load_probe(runs / "once")
    validated = Validated.of(probe, data_of(cell, labelled).evaluation_dataloader("val"))
    table = pd.read_parquet(runs / "once" / "predictions.parquet").set_index("sample_id")
    stored = table.loc[validated.ids.tolist()]
    assert set(stored["split"]) == {"val"}
    assert stored["prediction"].tolist() == validation_predictions(probe, validated)[:, 0].tolist()
    assert stored["target"].tolist() == validated.scores[:, 0].tolist()


def test_what_lacks_is_named(judging: Experiment, planted: Cache, labelled: Cache, runs: Path) -> None:
    elsewhere = replace(judging, cache=replace(judging.cache, root=str(planted.folder.parent)))
    with pytest.raises(CacheError, match="probe-lab judge"):
        train_cell(elsewhere, planted, runs / "cell", with_trainer=False)
    with pytest.raises(CacheError, match="probe-lab score"):
        trained(elsewhere)
    with pytest.raises(ProbeError, match=r"labels\.steps"):
        trained(replace(judging, labels=LabelsConfig()))
    with pytest.raises(ProbeError, match=r"labels\.images"):
        trained(replace(judging, labels=replace(judging.labels, images=False)))
    elsewhere = replace(judging, data=replace(judging.data, split=SplitFractions(0.6, 0.2, 0.2)))
    with pytest.raises(ProbeError, match=r"labels of .* are of the split"):
        trained(elsewhere)


def test_a_cache_tells_of_its_judges_and_finds_what_is_wrong_with_them(
    judging: Experiment, labelled: Cache, tmp_path: Path
) -> None:
    trained(judging)
    assert of_judges(labelled.folder) == {}
    assert describe(labelled.folder)["judges"] == {"0": "5"}
    shutil.copytree(labelled.folder, tmp_path / "planted")
    files = JudgeFiles(tmp_path / "planted", labelled.identity, 0)
    weights, scores = files.path("weights"), files.path(5)
    weights.write_bytes(scores.read_bytes())  # another file in its place
    damaged = bytearray(scores.read_bytes())
    damaged[-1] ^= 1
    scores.write_bytes(damaged)
    (scores.parent / "notes.txt").write_text("mine")
    assert set(of_judges(tmp_path / "planted")) == {
        "judges/0/weights.safetensors",
        "judges/0/5.safetensors",
        "judges/0/notes.txt",
    }
    with pytest.raises(CacheError, match=r"judges/0/5\.safetensors is not what belongs there"):
        files.read(5)
    _, metadata = JudgeFiles(labelled.folder, labelled.identity, 0).read(5)
    files.write(5, {"scores": torch.full((len(labelled.samples), 2), torch.nan)}, metadata)
    assert "have no scores" in of_judges(tmp_path / "planted")["judges/0/5.safetensors"]
    files.write(5, {"scores": torch.zeros(len(labelled.samples), 1)}, metadata)
    assert "it does not hold scores" in of_judges(tmp_path / "planted")["judges/0/5.safetensors"]


def test_a_judge_of_an_earlier_version_is_refused(judging: Experiment, labelled: Cache, tmp_path: Path) -> None:
    trained(judging)
    shutil.copytree(labelled.folder, tmp_path / "planted")
    cache = Cache(tmp_path / "planted")
    files = JudgeFiles(cache.folder, cache.identity, 0)
    for file in ("weights", 5):
        tensors, metadata = files.read(file)
        del metadata["answers"]  # as these files were, with one answer of each evaluator
        files.write(file, tensors, metadata)
    for read in (judged_scores, judge_weights):
        with pytest.raises(CacheError, match="earlier version: run `probe-lab judge` again"):
            read(judging, cache)


def test_a_judge_without_previews_says_the_same_of_all_that_it_was_not_taught(
    judging: Experiment, labelled: Cache, tmp_path: Path
) -> None:
    shutil.copytree(labelled.folder, tmp_path / "planted")
    cache = Cache(tmp_path / "planted")
    untaught = replace(
        judging,
        cache=replace(judging.cache, root=str(tmp_path)),
        labels=LabelsConfig(captions=1),
        judge=replace(judging.judge, steps=[5], batches=8),
    )
    trained(untaught)
    preview, finished = judged_scores(untaught, cache).T
    assert preview.unique().tolist() == [0.0]
    assert len(finished.unique()) > 100
    assert judge_settings(untaught, cache) != judge_settings(judging, cache)


def test_a_judge_of_another_split_encoder_or_training_is_refused(
    judging: Experiment, labelled: Cache, tmp_path: Path, runs: Path
) -> None:
    trained(judging)
    other_split = replace(judging, data=replace(judging.data, split=SplitFractions(0.6, 0.2, 0.2)))
    other_encoder = replace(judging, text=replace(judging.text, encoder="clip_score"))
    for cell, words in ((other_split, r"data\.split"), (other_encoder, r"text\.encoder=backbone")):
        with pytest.raises(ProbeError, match=words):
            judged_scores(cell, labelled)
        with pytest.raises(ProbeError, match=words):
            judge_weights(cell, labelled)

    shutil.copytree(labelled.folder, tmp_path / "planted")
    cache = Cache(tmp_path / "planted")
    train_cell(judging, cache, runs / "cell", with_trainer=False)
    metrics = json.loads((runs / "cell" / "metrics.json").read_text())
    assert CachesNow().outdated(cache.folder, metrics) == []
    again = replace(
        judging,
        cache=replace(judging.cache, root=str(tmp_path)),
        judge=replace(judging.judge, batches=2),
    )
    files = JudgeFiles(cache.folder, cache.identity, 0)
    before = files.path(5).read_bytes()
    assert "trained before" not in trained(again)[0]
    assert any("judges/0/5" in line for line in CachesNow().outdated(cache.folder, metrics))

    files.path(5).write_bytes(before)  # the scores of the judge before, as after a kill between the two files
    with pytest.raises(CacheError, match="another judge"):
        judged_scores(again, cache)
    assert "trained before" in trained(again)[0]  # and its scores are made anew
    assert judged_scores(again, cache).shape == (len(cache.samples), 2)


def test_finished_pictures_teach_at_steps_without_previews(judging: Experiment, labelled: Cache) -> None:
    pictures = LabelledPictures.read(labelled, ["good"], [5, 8], "backbone", previewed=[5])
    both, finished = pictures.labels(5, slice(4)), pictures.labels(8, slice(4))
    assert np.isfinite(both).all()
    assert np.isnan(finished[..., 0]).all()
    np.testing.assert_array_equal(finished[..., 1], labelled.labels.scores("good", "images")[1][:4])


def test_evaluators_that_labelled_other_pictures_are_named(labelled: Cache, tmp_path: Path) -> None:
    shutil.copytree(labelled.folder, tmp_path / "planted")
    cache = Cache(tmp_path / "planted")
    ids, scores = cache.labels.scores("good", 5)
    metadata = dict(cache.labels.score_metadata("good", 5))
    for of, left_out in ((FINISHED, 0), (5, 6)):
        labels = LabelScores(ids[left_out:], scores[left_out:], metadata)
        write_labels(cache.folder, "other", of, labels, cache.identity)
    with pytest.raises(ScoreError, match="probe-lab score"):
        LabelledPictures.read(cache, ["good", "other"], [5], "backbone", previewed=[5])
