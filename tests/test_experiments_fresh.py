"""No test caption of an experiment whose results the README shows was in an earlier experiment, by what it says."""

from __future__ import annotations

import itertools
from functools import cache

import pandas as pd
import pytest

from probe_lab.config import load_experiment
from probe_lab.data import splits_of
from probe_lab.data.canonical import meaning
from probe_lab.generation.caption_sources import CAPTION_SEED
from probe_lab.generation.prompts import collect_prompts, prompt_table
from probe_lab.probes.shipped import shipped_probe, taught_by
from probe_lab.shapes.captions import sample_captions
from tools.tiny_models.mistakes import held_out

PILOTS = (0, 2000)
"""Seed and number of captions of the pilots of ``shapes_full``."""
COUNTS = {
    "shapes_full": 2000,
    "shapes_full_sd3": 1000,
    "selection_sd3": 1600,
    "shipped_sd": 2000,
    "shipped_sd3": 1000,
    "plans_sd3": 640,
}
EARLIER = {
    "shapes_full": ("smoke", "quickstart", "quickstart_sd3"),
    "shapes_full_sd3": ("smoke", "quickstart", "quickstart_sd3", "shapes_full"),
    "selection_sd3": ("smoke", "quickstart", "quickstart_sd3", "shapes_full", "shapes_full_sd3"),
    "shipped_sd": ("smoke", "quickstart", "quickstart_sd3", "shapes_full", "shapes_full_sd3", "judge_study"),
    "shipped_sd3": (
        "smoke",
        "quickstart",
        "quickstart_sd3",
        "shapes_full",
        "shapes_full_sd3",
        "selection_sd3",
        "judge_study",
    ),
}
EARLIER["plans_sd3"] = (*EARLIER["shipped_sd3"], "shipped_sd", "shipped_sd3")


def drawn(seed: int, count: int) -> frozenset[str]:
    return frozenset(map(meaning, itertools.islice(sample_captions(CAPTION_SEED + seed), count)))


@cache
def prompts_of(name: str) -> pd.DataFrame:
    """The prompts of an experiment, with their split and what they say."""
    experiment = load_experiment(name)
    prompts = prompt_table(collect_prompts(experiment.prompts, experiment.seed))
    return prompts.assign(split=splits_of(prompts, experiment.data.split), says=prompts["prompt"].map(meaning))


def said(name: str, split: str = "") -> frozenset[str]:
    prompts = prompts_of(name)
    return frozenset(prompts["says"][prompts["split"] == split] if split else prompts["says"])


@pytest.mark.parametrize("name", EARLIER)
def test_test_captions_are_fresh(name: str) -> None:
    test = said(name, "test")
    assert len(prompts_of(name)) == COUNTS[name]
    assert len(test) > 0.1 * COUNTS[name]
    assert not test & drawn(*PILOTS)
    for earlier in EARLIER[name]:
        assert not test & said(earlier), earlier
    assert not said(name, "test") & (said(name, "train") | said(name, "val"))


def test_the_pilot_of_selection_sd3_saw_none_of_its_captions() -> None:
    assert not said("selection_sd3") & drawn(4, 600)


@pytest.mark.parametrize(("name", "world"), [("selection", "shapes_full"), ("loss_study", "shapes_full")])
def test_those_that_share_a_cache_share_its_captions(name: str, world: str) -> None:
    experiment, whole = load_experiment(name), load_experiment(world)
    assert (experiment.seed, experiment.prompts, experiment.data.split) == (whole.seed, whole.prompts, whole.data.split)


def test_the_clip_of_the_shapes_world_was_not_trained_on_the_captions_that_it_scores() -> None:
    assert "shapes_clip_score" in load_experiment("quickstart").evaluators
    assert set(prompts_of("quickstart")["prompt"]) <= held_out()


def test_what_taught_the_shipped_probe_chooses_and_judges_no_plan() -> None:
    taught = taught_by(shipped_probe("tiny-sd3"))
    assert not taught & (said("plans_sd3", "val") | said("plans_sd3", "test"))
    assert not taught_by(shipped_probe("tiny-sd")) & said("shipped_sd", "test")
    assert not taught & said("shipped_sd3", "test")
