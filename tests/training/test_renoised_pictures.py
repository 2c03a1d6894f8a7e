"""A picture judge sees finished pictures that were noised again, with the labels that those have."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probe_lab.cache import Cache
from probe_lab.cache.label_files import CAPTIONS, Captions, LabelScores, write_captions, write_labels
from probe_lab.cache.layout import FINISHED, LabelsOf
from probe_lab.cache.renoised import PROMPTS, write_renoised
from probe_lab.cache.text_table import write_text
from probe_lab.config import Experiment, JudgeConfig
from probe_lab.config.labels_section import LabelsConfig
from probe_lab.data import SplitFractions
from probe_lab.errors import CacheError, ProbeError
from probe_lab.progress import unwatched
from probe_lab.training.judge_batches import JudgeBatches, LabelledPictures
from probe_lab.training.judge_run import judge_settings, train_judges
from probe_lab.training.judge_scores import MADE_FROM
from probe_lab.training.renoised_pictures import RenoisedPictures

SETTINGS = JudgeConfig(batches=3, prompts=2, captions=2, pictures=0, renoised=0.5)
PICTURES: tuple[LabelsOf, ...] = (2, 5, FINISHED)


@pytest.fixture(scope="module")
def cache(stepped: Cache, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """``stepped`` with labels under two captions, and two fresh noises of which x0 tells the sample and the number."""
    folder = tmp_path_factory.mktemp("renoised") / "stepped"
    shutil.copytree(stepped.folder, folder)
    train = stepped.samples[stepped.samples["split"] == "train"]
    rows = [
        (prompt_id, caption, f"{text}{' not' * caption}", "negated" * caption)
        for prompt_id, text in train.drop_duplicates("prompt_id")[["prompt_id", "prompt"]].itertuples(index=False)
        for caption in (0, 1)
    ]
    split = {"split": str(SplitFractions(0.7, 0.1, 0.2))}
    captions = Captions(pd.DataFrame(rows, columns=["prompt_id", "caption", "prompt", "edit"]), split)
    write_captions(folder, captions, stepped.identity)
    own = torch.tensor(captions.table["prompt_id"].to_numpy())
    text = {name: values[own] for name, values in stepped.text("backbone").items()}
    metadata = {CAPTIONS: captions.sha256}
    write_text(folder, "backbone", text, prompts=len(rows), metadata=metadata, of_labels=True)
    ids = train["sample_id"].to_numpy()
    for number, of in enumerate(PICTURES):
        scores = np.stack([ids + 1000 * number, -ids], axis=1).astype(np.float32)
        write_labels(folder, "good", of, LabelScores(ids, scores, metadata), stepped.identity)
    for number in range(2):
        for shard, own_samples in train.groupby("shard"):
            samples = own_samples["sample_id"].to_numpy()
            steps = np.where(own_samples["prompt_id"].to_numpy() % 2 == number, 2, 5)
            x0 = torch.zeros(len(samples), *stepped.manifest.taps["x0"], dtype=torch.float16)
            x0[:, 0, 0, 0], x0[:, 1, 0, 0] = torch.tensor(samples), 10.0 + number
            of_prompts = {PROMPTS: captions.prompts_sha256}
            write_renoised(folder, number, int(str(shard)), samples, steps, x0, of_prompts, stepped.identity)
    return Cache(folder)


def test_examples_have_the_labels_of_the_finished_picture_alone(cache: Cache) -> None:
    pictures = LabelledPictures.read(cache, ["good"], [2, 5], "backbone", previewed=[2, 5])
    again = RenoisedPictures(cache, 2, [2, 5])
    seen = set()
    for batch in JudgeBatches(cache, pictures, replace(SETTINGS, renoised=1.0), seed=0, first=0, renoised=again):
        assert batch.labels.shape == (*batch.clean.shape[:1], 2, 2)
        assert batch.labels[..., 0].isnan().all()
        ids, number = batch.clean[:, 0, 0, 0].long(), batch.clean[:, 1, 0, 0].long() - 10
        assert torch.equal(batch.labels[:, :, 1], torch.stack([ids + 2000, -ids], dim=1).float())
        prompt = torch.tensor(cache.samples["prompt_id"].to_numpy())[ids]
        assert torch.equal(batch.share, torch.where(prompt % 2 == number, 2, 5) / cache.manifest.steps)
        seen |= set(number.tolist())
        assert batch.group.unique().tolist() == [0, 1]
    assert seen == {0, 1}


def test_a_share_of_the_prompts_is_seen_so(cache: Cache) -> None:
    pictures = LabelledPictures.read(cache, ["good"], [2, 5], "backbone", previewed=[2, 5])
    again = RenoisedPictures(cache, 2, [2, 5])
    long = replace(SETTINGS, batches=40)

    def missing(share: float, renoised: RenoisedPictures | None) -> list[bool]:
        settings = replace(long, renoised=share)
        batches = JudgeBatches(cache, pictures, settings, seed=1, first=0, renoised=renoised)
        return [bool(row) for batch in batches for row in batch.labels[:, 0, 0].isnan()]

    assert np.mean(missing(0.5, again)) == pytest.approx(0.5, abs=0.12)
    assert not any(missing(0.0, again))
    assert not any(missing(1.0, None))
    # From any number on, batches are the same ones.
    whole, rest = (list(JudgeBatches(cache, pictures, SETTINGS, seed=1, first=n, renoised=again)) for n in (0, 2))
    assert torch.equal(whole[2].clean, rest[0].clean)


def test_noises_of_two_settings_are_not_mixed(cache: Cache, tmp_path: Path) -> None:
    shutil.copytree(cache.folder, tmp_path / "stepped")
    mixed = Cache(tmp_path / "stepped")
    for shard in mixed.labels.renoised(1).shards:
        number = int(shard.path.stem)
        settings = shard.settings | {"seed": "1"}
        x0 = shard.rows.whole("x0")
        write_renoised(mixed.folder, 1, number, shard.ids, shard.steps, x0, settings, mixed.identity)
    assert len(mixed.labels.renoised(1).shards) == len(cache.labels.renoised(1).shards)
    with pytest.raises(CacheError, match=r"made by other settings than .*: seed is 1, there None"):
        RenoisedPictures(mixed, 2, [2, 5])


def test_a_judge_depends_on_them(cache: Cache, experiment: Experiment, tmp_path: Path) -> None:
    shutil.copytree(cache.folder, tmp_path / "stepped")
    judging = replace(
        experiment,
        cache=replace(experiment.cache, root=str(tmp_path), name="stepped"),
        probe=replace(experiment.probe, evaluators=["good"]),
        labels=LabelsConfig(captions=1, steps=[2, 5], images=True),
        judge=SETTINGS,
    )

    more = replace(judging, labels=replace(judging.labels, renoised=2))
    whole = Cache(more.cache_folder)

    def made_from(config: Experiment, share: float, renoised: RenoisedPictures | None) -> str:
        settings = replace(config, judge=replace(SETTINGS, renoised=share))
        return judge_settings(settings, whole, renoised)[MADE_FROM]

    once, twice = (RenoisedPictures(whole, count, [2, 5]) for count in (1, 2))
    digests = [made_from(more, 0.5, renoised) for renoised in (None, once, twice)]
    assert len({*digests, made_from(more, 0.4, twice)}) == 4
    assert made_from(judging, 0.4, None) == digests[0]

    def told(config: Experiment) -> str:
        return "".join(train_judges(config, watching=unwatched)).partition(" (")[0].rpartition(": ")[2]

    assert [told(more), told(more)] == ["trained", "trained before"]
    with pytest.raises(CacheError, match=r"no pictures with fresh noise of number 2.*labels\.renoised=3"):
        told(replace(more, labels=replace(more.labels, renoised=3)))
    with pytest.raises(ProbeError, match=r"noised as at step 2, and 'labels\.steps' names 5"):
        told(replace(more, labels=replace(more.labels, steps=[5])))
