from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.data import SPLITS, SplitFractions, split_of
from probe_lab.errors import ConfigError

PROMPTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(st.lists(PROMPTS, max_size=40), st.lists(PROMPTS, max_size=40))
def test_splits_of_two_caches_are_disjoint(first: list[str], second: list[str]) -> None:
    fractions = SplitFractions(0.5, 0.25, 0.25)
    train = {prompt for prompt in first if split_of(prompt, fractions) == "train"}
    test = {prompt for prompt in second if split_of(prompt, fractions) == "test"}
    assert not train & test


@given(PROMPTS)
def test_training_prompts_stay_when_only_the_rest_is_divided_anew(prompt: str) -> None:
    before, after = SplitFractions(0.6, 0.2, 0.2), SplitFractions(0.6, 0.4, 0.0)
    assert (split_of(prompt, before) == "train") == (split_of(prompt, after) == "train")


@given(PROMPTS, st.sampled_from(SPLITS))
def test_a_split_of_everything_gets_every_prompt_and_one_of_nothing_none(prompt: str, split: str) -> None:
    assert split_of(prompt, SplitFractions(**{**dict.fromkeys(SPLITS, 0.0), split: 1.0})) == split
    tenths = SplitFractions(0.7, 0.2, 0.1) if split != "test" else SplitFractions(0.7, 0.3, 0.0)
    assert tenths.of(split_of(prompt, tenths)) > 0


def test_the_hash_is_the_same_on_every_machine_and_in_every_release() -> None:
    prompts = ["a red circle", "a blue square left of a green cross", "ein grüner Kreis", ""]
    found = [split_of(prompt, SplitFractions(0.5, 0.25, 0.25)) for prompt in prompts]
    assert found == ["val", "train", "train", "test"]  # sha256("") begins with e3: 0.89, in the last quarter


def test_shares_are_those_asked_for() -> None:
    fractions = SplitFractions(0.7, 0.2, 0.1)
    found = [split_of(f"prompt {number}", fractions) for number in range(4000)]
    for split in SPLITS:
        share = fractions.of(split)
        spread = 4 * math.sqrt(share * (1 - share) / 4000)
        assert abs(found.count(split) / 4000 - share) < spread


@pytest.mark.parametrize(
    "values",
    [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (math.nan, 0.5, 0.5), (0.0, 0.0, 0.0), (math.inf, 0.0, 0.0)],
)
def test_impossible_fractions_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match=r"data\.split"):
        SplitFractions(*values)
