"""Labels in a cache: scores of training pictures under altered captions, made once, resumed, read and verified."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, describe, verify, write_scores
from probe_lab.cache.layout import captions_path, labels_path, text_path
from probe_lab.capture.text_embeddings import encode_prompts, stored_text
from probe_lab.config import Experiment, load_experiment
from probe_lab.data.splits import splits_of
from probe_lab.errors import CacheError, ConfigError, ScoreError
from probe_lab.evaluators import create
from probe_lab.evaluators.decode import decoded
from probe_lab.generation.generate import is_complete
from probe_lab.generation.prompts import sample_table
from probe_lab.labels import label_run as module
from probe_lab.previews.decoding import pictures
from probe_lab.progress import OnProgress
from probe_lab.runs.identity import cell_name

NAMES = ("shapes_reward", "shapes_binding")
SMALL = ["prompts.count=8", "prompts.seeds=3", "sampling.steps=4", "capture.steps=[2,3]", "cache.shard_size=12"]
LABELS = ["labels.captions=3", "labels.steps=[3]", "labels.images=true", "workers=1", "cache.dtype=float32"]


@pytest.fixture(scope="module")
def made(scored_smoke: Callable[..., Experiment]) -> Experiment:
    """With a cache that has scores and labels."""
    experiment = scored_smoke([*SMALL, *LABELS])
    label(experiment)
    return experiment


def label(
    experiment: Experiment,
    progress: list[int] | None = None,
    *,
    overwrite: bool = False,
    stop: int = 10**9,
    during: str = "labels",
) -> list[str]:
    """The lines of ``make_labels``; KeyboardInterrupt once so many pictures are scored, or whatever is done ``during``
    another part."""

    def update(done: int, total: int) -> None:
        if progress is not None:
            progress.append(done)
        if done >= stop:
            raise KeyboardInterrupt

    def watching(what: str, unit: str) -> nullcontext[OnProgress]:
        return nullcontext(update if what == during else lambda done, total: None)

    return list(module.make_labels(experiment, overwrite=overwrite, watching=watching))


def with_labels(experiment: Experiment, **keys: object) -> Experiment:
    return replace(experiment, labels=replace(experiment.labels, **keys))  # type: ignore[arg-type]


def test_only_training_prompts_are_labelled(made: Experiment) -> None:
    cache = Cache(made.cache_folder)
    table = cache.labels.captions
    train = cache.samples[(splits_of(cache.samples, made.data.split) == "train").to_numpy()]
    assert 0 < train["prompt_id"].nunique() < 8
    assert table["prompt_id"].tolist() == [prompt for prompt in train["prompt_id"].unique() for _ in range(4)]
    assert table["caption"].tolist() == [0, 1, 2, 3] * train["prompt_id"].nunique()
    own = table[table["caption"] == 0]
    assert own["prompt"].tolist() == train["prompt"].drop_duplicates().tolist()
    assert (table["edit"] == "").tolist() == (table["caption"] == 0).tolist()
    assert cache.labels.settings["alter"] == "grammar"
    for of in (3, "images"):
        assert cache.labels.scores("shapes_reward", of)[0].tolist() == train["sample_id"].tolist()


def test_a_label_is_the_score_of_the_picture_under_the_caption(made: Experiment) -> None:
    cache = Cache(made.cache_folder)
    assert cache.labels.scored == {3: sorted(NAMES), "images": sorted(NAMES)}
    captions = cache.labels.captions.set_index(["prompt_id", "caption"])["prompt"]
    pipe = load_pipeline(made.backbone, made.sampling)
    for name in NAMES:
        ids, finished = cache.labels.scores(name, "images")
        assert finished.dtype == np.float32
        np.testing.assert_array_equal(finished[:, 0], cache.scores(name)[ids])
        assert np.unique(finished, axis=1).shape[1] == 4
        previewed = cache.labels.scores(name, 3)[1]
        for row in (0, len(ids) - 1):
            prompt, shard, place = cache.samples[["prompt_id", "shard", "row"]].to_numpy()[ids[row]].tolist()
            image = decoded(cache.image(int(ids[row])))
            (preview,) = pictures(pipe, cache.read("3/x0", shard, slice(place, place + 1)))
            assert isinstance(image, Image.Image)
            texts = [captions[prompt, caption] for caption in range(4)]
            evaluator = create(name)
            assert evaluator.score([image] * 4, texts).tolist() == finished[row].tolist()
            np.testing.assert_allclose(evaluator.score([preview] * 4, texts), previewed[row], atol=1e-4)


def test_captions_are_encoded_as_prompts_are(made: Experiment) -> None:
    cache = Cache(made.cache_folder)
    text, of_prompts, table = cache.labels.text("backbone"), cache.text("backbone"), cache.labels.captions
    assert {name: (each.dtype, each.shape[1:]) for name, each in text.items()} == {
        name: (each.dtype, each.shape[1:]) for name, each in of_prompts.items()
    }
    own = np.flatnonzero(table["caption"] == 0)
    rows = table["prompt_id"].to_numpy()[own]
    assert all(torch.equal(text[name][own], of_prompts[name][rows]) for name in text)
    some = torch.tensor([len(table) - 1, 0])
    read = cache.labels.text_rows("backbone")
    assert all(torch.equal(read.read(name, some), text[name][some]) for name in text)
    pipe = load_pipeline(made.backbone, made.sampling)
    encoded = encode_prompts(pipe, made.sampling, [table["prompt"][1]], length=text["tokens"].shape[1])
    torch.testing.assert_close(text["tokens"][1:2], encoded["tokens"])
    torch.testing.assert_close(text["embedding"][1:2], encoded["embedding"])
    assert torch.equal(text["token_mask"][1:2], encoded["token_mask"])


def test_the_text_of_captions_is_encoded_in_blocks_and_continued(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = text_path(experiment.cache_folder, "backbone", of_labels=True)
    encoded: list[int] = []

    def counted(pipe: object, sampling: object, texts: list[str], **options: int) -> dict[str, torch.Tensor]:
        encoded.append(len(texts))
        return stored_text(pipe, sampling, texts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("probe_lab.labels.caption_text.stored_text", counted)
    monkeypatch.setattr("probe_lab.cache.text_blocks._AT_ONCE", 4)
    path.unlink()
    label(experiment)
    whole, blocks = path.read_bytes(), encoded.copy()
    assert max(blocks) == 4
    assert sum(blocks) <= len(Cache(experiment.cache_folder).labels.captions.query("caption > 0"))
    path.unlink()
    encoded.clear()
    with pytest.raises(KeyboardInterrupt):
        label(experiment, stop=10, during="text of captions")
    assert 0 < len(encoded) < len(blocks)
    assert verify(experiment.cache_folder) == []
    label(experiment)
    assert encoded == blocks
    assert path.read_bytes() == whole


def test_text_of_an_evaluator_is_as_long_as_that_of_the_prompts(experiment: Experiment) -> None:
    from probe_lab.evaluators.encode import encode_texts

    other = replace(experiment, text=replace(experiment.text, encoder="shapes_clip_score"))
    encode_texts(other.cache_folder, "shapes_clip_score", other.scoring)
    assert any("shapes_clip_score.safetensors" in line for line in label(other))
    cache = Cache(other.cache_folder)
    text, of_prompts = cache.labels.text("shapes_clip_score"), cache.text("shapes_clip_score")
    assert text["tokens"].shape[1:] == of_prompts["tokens"].shape[1:]
    assert len(text["embedding"]) == len(cache.labels.captions)
    assert verify(other.cache_folder) == []


def test_what_is_there_is_not_made_again(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path: path.read_bytes() for path in experiment.cache_folder.rglob("labels/**/*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(module.LabelWorker, "do", None)
        lines = label(experiment)
    assert [line.partition(" (")[0] for line in lines][1:] == [
        "labels of previews at step 3: scored before: shapes_reward, shapes_binding",
        "labels of the images: scored before: shapes_reward, shapes_binding",
    ]
    assert "made before" in lines[0]
    assert {path: path.read_bytes() for path in files} == files
    lines = label(with_labels(experiment, steps=[2], images=False))
    assert lines[1:] == ["labels of previews at step 2: scored: shapes_reward, shapes_binding"]
    assert list(Cache(experiment.cache_folder).labels.scored) == [2, 3, "images"]


def test_other_captions_replace_all(experiment: Experiment) -> None:
    before = Cache(experiment.cache_folder).labels
    first = before.captions.copy()
    wider = with_labels(experiment, captions=5)
    with pytest.raises(KeyboardInterrupt):
        label(wider, stop=0)
    # Until they are made, scores and text of the former captions are refused.
    cache = Cache(experiment.cache_folder)
    assert cache.labels.width == 6
    with pytest.raises(ScoreError, match="of other captions"):
        cache.labels.scores("shapes_reward", 3)
    assert {problem.file for problem in verify(cache.folder)} == {
        f"labels/{of}/{name}.safetensors" for of in (3, "images") for name in NAMES
    }
    label(wider)
    table = cache.labels.captions
    assert cache.labels.scores("shapes_reward", 3)[1].shape[1] == 6
    assert table[table["caption"] < 4]["prompt"].tolist() == first["prompt"].tolist()
    assert verify(cache.folder) == []


def test_an_interrupted_call_is_continued(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    before: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        label(with_labels(experiment, steps=[2]), before, stop=39)
    folder = experiment.cache_folder
    assert labels_path(folder, "shapes_reward", 2, partial=True).exists()
    assert verify(folder) == []
    progress: list[int] = []
    label(with_labels(experiment, steps=[2]), progress)
    assert 39 <= progress[0] == before[-1] < progress[-1]
    cache = Cache(folder)
    assert not labels_path(folder, "shapes_reward", 2, partial=True).exists()
    ids, scores = cache.labels.scores("shapes_reward", 2)
    assert np.isfinite(scores).all()
    assert len(ids) == len(cache.labels.scores("shapes_reward", "images")[0])


def test_processes_give_the_same_labels(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(experiment.cache_folder)
    before = {(name, of): cache.labels.scores(name, of)[1] for name in NAMES for of in (3, "images")}
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    label(replace(experiment, workers=2), overwrite=True)
    for (name, of), scores in before.items():
        np.testing.assert_allclose(cache.labels.scores(name, of)[1], scores, atol=1e-4)


def test_imported_scores_have_no_labels(experiment: Experiment) -> None:
    write_scores(experiment.cache_folder, "human", range(24), np.linspace(0, 1, 24), metadata={"imported": "a.csv"})
    lines = label(replace(experiment, evaluators=["shapes_reward", "human"]))
    assert lines[-1] == "no labels of human: those scores were imported, and who gave them sees no other captions"


def test_what_cannot_be_labelled_is_refused(experiment: Experiment) -> None:
    with pytest.raises(CacheError, match=r"no step 4.*capture.steps"):
        label(with_labels(experiment, steps=[4]))
    for captions, words in ((["labels.images=false"], "no pictures are named"), (["labels.steps=[9]"], "names step 9")):
        with pytest.raises(ConfigError, match=words):
            load_experiment("smoke", [*SMALL, "labels.captions=2", *captions])
    with pytest.raises(ConfigError, match="without finished images"):
        load_experiment("smoke", [*SMALL, "labels.captions=2", "capture.images=false"])
    with pytest.raises(ScoreError, match=r"shapes_reward cannot score \d+ of the altered captions"):
        label(with_labels(experiment, alter="words"))
    shutil.rmtree(experiment.cache_folder / "labels")
    with pytest.raises(CacheError, match="has no labels"):
        Cache(experiment.cache_folder).labels.scores("shapes_reward", 3)


def test_labels_change_no_cell_and_no_cache(made: Experiment) -> None:
    without = load_experiment("smoke", [f"cache.root={made.cache.root}", *SMALL, "workers=1", "cache.dtype=float32"])
    assert cell_name(without) == cell_name(made)
    assert is_complete(without, sample_table(without))


def test_damage_is_found_and_labels_are_listed(experiment: Experiment) -> None:
    folder = experiment.cache_folder
    prompts = len(Cache(folder).labels.captions) // 4
    assert describe(folder)["labels"] == {
        "captions": f"3 altered of each of {prompts} prompts (grammar)",
        "3": "shapes_binding, shapes_reward",
        "images": "shapes_binding, shapes_reward",
    }
    assert verify(folder) == []
    path = labels_path(folder, "shapes_reward", 3)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    text = folder / "labels" / "text" / "backbone.safetensors"
    text.write_bytes(text.read_bytes()[:-40])
    (folder / "labels" / "notes.txt").write_text("mine", encoding="utf-8")
    assert {problem.file for problem in verify(folder)} == {
        "labels/3/shapes_reward.safetensors",
        "labels/text/backbone.safetensors",
        "labels/notes.txt",
    }
    table = captions_path(folder)
    table.write_bytes(table.read_bytes()[:-20])
    assert "labels/captions.parquet" in {problem.file for problem in verify(folder)}
    (folder / "labels" / "notes.txt").unlink()
    label(experiment)
    assert verify(folder) == []
