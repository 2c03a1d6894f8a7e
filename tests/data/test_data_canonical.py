"""Which prompts are the same, which say the same, and which only look so."""

from __future__ import annotations

import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.data import SplitFractions, split_of, splits_of
from probe_lab.data.canonical import canonical, meaning
from probe_lab.data.splits import split_key

FRACTIONS = SplitFractions(0.4, 0.3, 0.3)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WORDS = st.lists(st.sampled_from(["é", "Zürich", "naïve", "한국어", "ガラス", "cat", "ﬁn"]), min_size=1, max_size=5)
BLANKS = st.text(" \t\n\u00a0\u2003\u3000", min_size=1, max_size=3)
ZERO_WIDTH = st.text("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\ufe0f", max_size=3)


@given(TEXT)
def test_both_forms_are_stable(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)
    assert meaning(canonical(text)) == meaning(text)
    assert meaning(meaning(text)) == meaning(text)
    assert bool(meaning(text)) == bool(canonical(text))


@given(WORDS, st.lists(BLANKS, min_size=6, max_size=6), ZERO_WIDTH, st.sampled_from(["NFC", "NFD"]))
def test_blanks_unicode_form_and_zero_width_characters_make_no_other_prompt(
    words: list[str], blanks: list[str], invisible: str, form: str
) -> None:
    written = "".join(f"{blank}{word}{invisible}" for blank, word in zip(blanks, words, strict=False)) + blanks[-1]
    assert canonical(unicodedata.normalize(form, written)) == canonical(" ".join(words))  # type: ignore[arg-type]
    assert split_of(written, FRACTIONS) == split_of(" ".join(words), FRACTIONS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A cat, asleep.", "a cat asleep"),
        ("“A Dog’s bed”!", "a dog's bed"),
        ("GROẞE Straße", "große strasse"),
        ("well-known place", "well known place"),
        ("一只猫，和狗。", "一只猫和狗"),
        ("a red circle left of a blue square", "A blue square right of a red circle."),
        ("a red circle above a green cross", "a green cross below a red circle"),
        ("a red circle, and a blue square", "a blue square and a red circle"),
        (
            "a red circle left of a blue square and a green cross above a cyan circle",
            "a cyan circle below a green cross and a red circle left of a blue square",
        ),
        (
            "a red circle left of a blue square above a green cross",
            "a green cross below a blue square right of a red circle",
        ),
    ],
)
def test_what_says_the_same_is_in_one_split(first: str, second: str) -> None:
    assert meaning(first) == meaning(second)
    assert canonical(first) != canonical(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a résumé", "a resume"),
        ("año", "ano"),
        ("ハ", "バ"),
        ("か", "カ"),
        ("一只猫", "一只狗"),
        ("C#", "C"),
        ("C++", "C"),
        ("50%", "50"),
        ("a cat & dog", "a cat dog"),
        ("1.5 cats", "15 cats"),
        ("x²", "x2"),
        ("😀", "😃"),
        ("now here", "nowhere"),
        ("a red circle left of a blue square", "a blue square left of a red circle"),
        ("a red circle left of a blue square", "a red circle above a blue square"),
        ("a red circle left of a blue square", "a red circle and a blue square"),
        (
            "a red circle left of a blue square and a green cross",
            "a red circle and a blue square left of a green cross",
        ),
        ("a red circle", "a red circle and a red circle"),
        ("!", "?"),
    ],
)
def test_what_says_something_else_is_told_apart(first: str, second: str) -> None:
    assert meaning(first) != meaning(second)


def test_captions_of_one_image_are_in_one_split() -> None:
    captions = pd.DataFrame({"prompt": [f"caption {number}" for number in range(60)]})
    assert splits_of(captions, FRACTIONS).nunique() == 3
    by_image = splits_of(captions.assign(image_id=[str(number // 5) for number in range(60)]), FRACTIONS).tolist()
    assert by_image == [split for split in by_image[::5] for _ in range(5)]
    assert len(set(by_image)) == 3
    mixed = captions.assign(image_id=["7", *[""] * 59])
    assert splits_of(mixed, FRACTIONS).tolist()[1:] == splits_of(captions, FRACTIONS).tolist()[1:]
    assert split_key("caption 0", "7") != split_key("7") != split_key("caption 0")
