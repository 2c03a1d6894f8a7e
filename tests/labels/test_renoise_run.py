"""Pictures of a cache that are noised again: those of training prompts alone, made once, resumed, read and verified."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, describe, verify
from probe_lab.cache.layout import renoised_folder, renoised_path
from probe_lab.cache.overwriting import OVERWRITE
from probe_lab.cache.renoised import RenoisedShard, write_renoised
from probe_lab.config import Backbone, CaptureConfig, Experiment, Prompts, Sampling, load_experiment
from probe_lab.config.labels_section import LabelsConfig
from probe_lab.config.schema import Data, Text
from probe_lab.data.splits import SplitFractions, splits_of
from probe_lab.errors import CacheError, CaptureError, ConfigError
from probe_lab.evaluators.decode import decoded
from probe_lab.generation.dry_plan import planned
from probe_lab.generation.generate import plan_generation
from probe_lab.generation.measured_plan import Plan
from probe_lab.labels.label_plan import LabelPlan, label_plan, label_table
from probe_lab.labels.label_run import make_labels
from probe_lab.labels.renoising import noise_of, renoised_x0
from probe_lab.sweep.score_files import files_of_score
from probe_lab.verbs import score_images

SMALL = [
    "evaluators=[shapes_reward]",
    "prompts.count=8",
    "prompts.seeds=3",
    "sampling.steps=4",
    "sampling.height=32",
    "sampling.width=32",
    "capture.steps=[2,3]",
    "cache.shard_size=12",
    "workers=1",
]
LABELS = ["labels.captions=2", "labels.steps=[3,2]", "labels.images=true", "labels.renoised=2"]


@pytest.fixture(scope="module")
def made(scored_smoke: Callable[..., Experiment]) -> Experiment:
    """With a cache that has scores, labels and pictures noised again."""
    experiment = scored_smoke([*SMALL, *LABELS])
    label(experiment)
    return experiment


def label(experiment: Experiment, *, stop: float = 2.0) -> str:
    """The last line of ``make_labels``; KeyboardInterrupt once this share of the pictures is noised again."""

    def watching(what: str, unit: str) -> nullcontext[object]:
        def update(done: int, total: int) -> None:
            assert 0 <= done <= total
            if what == "noise again" and done >= stop * total:
                raise KeyboardInterrupt

        return nullcontext(update)

    return list(make_labels(experiment, watching=watching))[-1]  # type: ignore[arg-type]


def files_of(experiment: Experiment) -> dict[str, bytes]:
    folder = renoised_folder(experiment.cache_folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_pictures_of_training_prompts_alone_are_noised_again(made: Experiment) -> None:
    cache = Cache(made.cache_folder)
    train = cache.samples["sample_id"][(splits_of(cache.samples, made.data.split) == "train").to_numpy()]
    assert 0 < len(train) < len(cache.samples)
    captured = cache.read("3/x0", 0)
    for number in range(2):
        renoised = cache.labels.renoised(number)
        assert renoised.ids.tolist() == train.tolist() == cache.labels.scores("shapes_reward", "images")[0].tolist()
        assert renoised.steps.tolist() == [
            noise_of(made.seed, sample // 3, sample, number, [2, 3]).step for sample in train
        ]
        x0 = renoised.x0(np.arange(len(train)))
        assert (x0.shape[1:], x0.dtype) == (captured.shape[1:], captured.dtype)
        assert set(renoised.steps.tolist()) == {2, 3}
    assert describe(cache.folder)["labels"]["renoised"] == "2"  # type: ignore[index]
    assert verify(cache.folder) == []


@pytest.fixture(scope="module")
def images(made: Experiment) -> Plan:
    return plan_generation(made)


def table_text(plan: LabelPlan) -> str:
    table = Console(width=100, record=True, file=io.StringIO())
    table.print(label_table(plan))
    return table.export_text()


def test_a_plan_counts_the_labels_that_are_made(made: Experiment, images: Plan) -> None:
    plan = label_plan(made, images)
    assert plan is not None
    labels = Cache(made.cache_folder).labels
    pictures = len(labels.renoised().ids)
    rows = {row.what: row for row in plan.rows}
    assert rows["captions and their text"].count == len(labels.captions)
    text = sum(each.nbytes for each in labels.text("backbone").values())
    assert rows["captions and their text"].bytes == pytest.approx(text, rel=1e-3)
    for what, of in (("scores of previews, steps 2, 3", [2, 3]), ("scores of images", ["images"])):
        stored = [labels.scores("shapes_reward", each) for each in of]  # type: ignore[arg-type]
        assert rows[what].count == sum(scores.size for _, scores in stored)
        assert rows[what].bytes == sum(ids.nbytes + scores.nbytes for ids, scores in stored)
    again = rows["images noised again"]
    assert again.count == 2 * pictures
    assert again.bytes == 2 * sum(
        each.nbytes for each in (labels.renoised().x0(range(pictures)), labels.renoised().ids, labels.renoised().steps)
    )
    assert all(row.seconds for row in plan.rows)
    assert "images noised again" in table_text(plan)
    assert "at least" not in table_text(plan)
    assert label_plan(replace(made, labels=LabelsConfig()), images) is None


def test_a_plan_times_what_is_asked_for_alone(made: Experiment, images: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise CaptureError("pictures cannot be noised again: set labels.renoised=0")

    monkeypatch.setattr("probe_lab.labels.label_plan.renoised_x0", refused)
    monkeypatch.setattr("probe_lab.labels.label_plan.pictures", refused)
    with pytest.raises(CaptureError, match=r"set labels\.renoised=0"):
        label_plan(made, images)
    finished = replace(made, labels=replace(made.labels, renoised=0, steps=[]))
    plan = label_plan(finished, images)
    assert plan is not None
    assert [row.what for row in plan.rows] == ["captions and their text", "scores of images"]
    assert plan.is_complete
    imported = label_plan(replace(finished, evaluators=["imported"]), images)
    assert imported is not None
    assert [(row.count, row.seconds) for row in imported.rows[1:]] == [(0, None)]
    assert imported.note.startswith("Labels of imported are not counted")
    assert table_text(imported).count("at least") == 2
    elsewhere = label_plan(replace(finished, text=Text(encoder="clip_score")), images)
    assert elsewhere is not None
    assert elsewhere.rows[0].seconds is None
    assert not elsewhere.is_complete


def test_a_plan_without_weights_counts_by_operations() -> None:
    experiment = Experiment(
        name="trial",
        backbone=Backbone(family="sd", path="stabilityai/stable-diffusion-2-1"),
        evaluators=["image_reward", "imported"],
        prompts=Prompts(source="file", path="nowhere.txt", count=100, seeds=2),
        sampling=Sampling(steps=25, guidance=7.5, height=256, width=256, device="cuda"),
        capture=CaptureConfig(steps=[3, 5], taps=["x0"]),
        data=Data(split=SplitFractions(0.7, 0.1, 0.2)),
        labels=LabelsConfig(captions=8, steps=[3, 5], images=True, renoised=4),
        workers=2,
    )
    images = planned(experiment)
    plan = label_plan(experiment, images)
    assert plan is not None
    rows = {row.what: (row.count, row.seconds) for row in plan.rows}
    assert rows["scores of previews, steps 3, 5"] == (70 * 2 * 2 * 9, None)
    # 140 pictures four times, of 200 that take 25 calls each.
    assert rows["images noised again"] == (560, pytest.approx(images.seconds * 560 / 200 / 25))
    assert "What scoring takes is not known" in plan.note
    assert "Labels of imported are not counted" in plan.note
    assert "at least" in table_text(plan)
    nothing = label_plan(experiment, replace(images, images=0))
    assert nothing is not None
    assert [row.count for row in nothing.rows] == [0] * 4


def test_each_is_what_its_picture_gives_alone(made: Experiment) -> None:
    cache = Cache(made.cache_folder)
    pipe = load_pipeline(made.backbone, made.sampling)
    renoised = cache.labels.renoised(1)
    for row in (0, len(renoised.ids) - 1):
        sample = int(renoised.ids[row])
        noise = noise_of(made.seed, sample // 3, sample, 1, made.labels.steps)
        image = decoded(cache.image(sample))
        assert image is not None
        alone = renoised_x0(made.sampling, pipe, cache.samples.iloc[[sample]], [image], [noise.seed], noise.step)
        assert torch.equal(renoised.x0(np.array([row])), alone.to(torch.float16))
    with pytest.raises(CacheError, match=r"no pictures with fresh noise of number 2.*labels.renoised=3"):
        cache.labels.renoised(2)


def test_an_interrupted_call_is_continued_to_the_same_bytes(experiment: Experiment) -> None:
    before = files_of(experiment)
    assert len(before) == 4
    assert "made before" in label(experiment)
    shutil.rmtree(renoised_folder(experiment.cache_folder))
    with pytest.raises(KeyboardInterrupt):
        label(experiment, stop=0.6)
    some = files_of(experiment)
    assert 0 < len(some) < len(before)
    assert verify(experiment.cache_folder) == []
    renoised_path(experiment.cache_folder, 0, 1).unlink()
    with pytest.raises(CacheError, match=r"0.00001\.safetensors is missing, 1 of 2 .*run `probe-lab score` again"):
        Cache(experiment.cache_folder).labels.renoised()
    assert any("not noised again" in each.message for each in verify(experiment.cache_folder))
    assert ": made (" in label(replace(experiment, workers=2))
    assert files_of(experiment) == before


def test_an_overwriting_that_is_interrupted_again_and_again_ends(experiment: Experiment) -> None:
    folder = experiment.cache_folder
    score_images(experiment)  # with the previews that the sweep reads
    places = files_of_score(experiment)
    made = [path for part in ("scores", "previews", "labels") for path in folder.rglob(f"{part}/**/*.*")]
    assert sorted(places) == sorted(path for path in made if path.name != "captions.parquet")
    before = {path: path.read_bytes() for path in places}
    for path in places:
        os.utime(path, (0, 0))
    remade: dict[Path, int] = {}

    def watching(what: str, unit: str) -> nullcontext[object]:
        def update(done: int, total: int) -> None:
            if len(remade) + 2 < len(made_again(places)) < len(places):
                raise KeyboardInterrupt

        return nullcontext(update)

    for interruption in range(len(places)):
        try:
            score_images(experiment, overwrite=interruption != 1, watching=watching)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            now = made_again(places)
            assert len(now) > len(remade)
            assert remade.items() <= now.items()
            remade = now
        else:
            break
    assert interruption > 1
    assert remade.items() <= made_again(places).items()
    assert len(made_again(places)) == len(places)
    assert {path: path.read_bytes() for path in places} == before
    assert not (folder / OVERWRITE).exists()


def made_again(places: list[Path]) -> dict[Path, int]:
    """When those were written that are not as old as time."""
    return {path: time for path in places if (time := path.stat().st_mtime_ns)}


def test_other_settings_make_other_pictures(experiment: Experiment) -> None:
    before = files_of(experiment)
    more = replace(experiment, labels=replace(experiment.labels, renoised=3))
    label(more)
    assert {name: data for name, data in files_of(more).items() if name[0] != "2"} == before
    once = replace(experiment, labels=replace(experiment.labels, renoised=1, steps=[3]))
    split = replace(once, data=replace(once.data, split=SplitFractions(0.4, 0.3, 0.3)))
    cache = Cache(split.cache_folder)
    held_out = set(cache.samples["sample_id"][(splits_of(cache.samples, split.data.split) != "train").to_numpy()])
    assert held_out & set(cache.labels.renoised().ids.tolist())
    with pytest.raises(KeyboardInterrupt):
        label(split, stop=0.0)
    with pytest.raises(CacheError, match="of other training prompts"):
        Cache(split.cache_folder).labels.renoised()
    assert ": made (" in label(split)
    renoised = Cache(split.cache_folder).labels.renoised()
    assert not held_out & set(renoised.ids.tolist())
    assert set(renoised.steps.tolist()) == {3}
    assert list(Cache(split.cache_folder).labels.renoised_counts) == [0]
    with pytest.raises(CacheError, match=r"does not match the experiment in sampling\.guidance"):
        label(replace(split, sampling=replace(split.sampling, guidance=9.0)))


def test_pictures_of_two_settings_are_not_read_together(experiment: Experiment) -> None:
    folder = experiment.cache_folder
    once = replace(experiment, labels=replace(experiment.labels, renoised=1))
    label(once)
    assert list(Cache(folder).labels.renoised_counts) == [0, 1]  # a lower number keeps what is there
    other = replace(once, labels=replace(once.labels, steps=[3]))
    with pytest.raises(KeyboardInterrupt):
        label(other, stop=1.0)  # before the second of its two files is written
    objection = r"made by other settings than .*: steps is 2, 3, there 3"
    with pytest.raises(CacheError, match=f"{objection}; run `probe-lab score` again"):
        Cache(folder).labels.renoised()
    wrong = {each.file: each.message for each in verify(folder)}
    assert set(wrong) == {f"labels/renoised/{file}.safetensors" for file in ("0/00001", "1/00000", "1/00001")}
    assert all(re.search(f"{objection}: run `probe-lab score` again", message) for message in wrong.values())
    label(other)
    assert list(Cache(folder).labels.renoised_counts) == [0]
    assert verify(folder) == []


def test_what_is_wrong_is_found_and_made_again(experiment: Experiment) -> None:
    folder = experiment.cache_folder
    cache = Cache(folder)
    captions = cache.labels.stored_captions
    stored = RenoisedShard(folder, 0, 0, cache.identity, captions)
    held_out = next(each for each in cache.samples["sample_id"] if each not in cache.labels.renoised().ids)
    ids = stored.ids.copy()
    ids[-1] = held_out
    x0 = stored.rows.whole("x0")
    write_renoised(folder, 0, 0, np.sort(ids), stored.steps, x0, stored.metadata, cache.identity)
    data = bytearray(renoised_path(folder, 1, 1).read_bytes())
    data[-1] ^= 1
    renoised_path(folder, 1, 1).write_bytes(data)
    (renoised_folder(folder) / "notes.txt").write_text("mine", encoding="utf-8")
    wrong = {each.file: each.message for each in verify(folder)}
    assert f"sample {held_out} is of no training prompt" in wrong["labels/renoised/0/00000.safetensors"]
    assert "sha256 differs" in wrong["labels/renoised/1/00001.safetensors"]
    assert set(wrong) == {
        "labels/renoised/0",
        "labels/renoised/0/00000.safetensors",
        "labels/renoised/1/00001.safetensors",
        "labels/renoised/notes.txt",
    }
    with pytest.raises(CacheError, match="sha256 differs"):
        cache.labels.renoised(1)
    (renoised_folder(folder) / "notes.txt").unlink()
    label(experiment)
    assert verify(folder) == []
    with pytest.raises(CacheError, match=r"noised as at step \d, has an x0 that does not fit torch.float16"):
        write_renoised(folder, 0, 0, stored.ids, stored.steps, x0 * torch.inf, stored.metadata, cache.identity)


def test_settings_that_lack_something_are_refused() -> None:
    for missing in ("labels.steps=[]", "labels.images=false", "labels.captions=0"):
        with pytest.raises(ConfigError, match=r"'labels.renoised' is 2.*set labels.captions=8"):
            load_experiment("smoke", [*SMALL, *LABELS, missing])
