"""Results by prompt complexity: every field is the metric of exactly the prompts of its group."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from probe_lab.cache import Cache
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import complexity


@pytest.fixture
def material(simulated: Any) -> Material:
    results = load_results(simulated.runs)
    return Material(results, choose(results, simulated.world.evaluators, None), Cache(simulated.cache))


def _gain(rows: pd.DataFrame) -> tuple[float, float]:
    chosen = rows.loc[rows["prediction"].idxmax(), "target"]
    return chosen - rows["target"].mean(), rows["target"].max() - rows["target"].mean()


def test_fields_are_those_of_the_prompts_counted_by_hand(material: Material) -> None:
    assert material.cache is not None
    words = material.cache.samples.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"].str.split().str.len()
    with drawing():
        (table,) = complexity.section(material).tables
    rows = [row for row in table.rows if row[:3] == ("shapes reward", "best probe", "words")]
    tested = [p for p in words.index if p % 5 == 4]
    seen = []
    for row in rows:
        low, _, high = str(row[3]).partition("–")
        kept = [p for p in tested if int(low) <= words[p] <= int(high or low)]
        seen += kept
        assert row[6] == len(kept) >= complexity.SMALLEST
        srcc, gain = [], []
        for cell in material.results.seeds(material.choice.best).values():
            table_of = material.results.predictions(cell, "shapes_reward")
            groups = [table_of[table_of["prompt_id"] == p] for p in kept]
            srcc.append(np.mean([stats.spearmanr(g["prediction"], g["target"]).statistic for g in groups]))
            gained, possible = zip(*map(_gain, groups), strict=True)
            gain.append(sum(gained) / sum(possible))
        assert len(srcc) == 2
        assert row[4].estimate == pytest.approx(np.mean(srcc), abs=1e-9)
        assert row[5].estimate == pytest.approx(np.mean(gain), abs=1e-9)
        assert row[4].lower < row[4].estimate < row[4].upper
    assert len(rows) > 1
    assert sorted(seen) == tested  # every test prompt is in one group


def test_figure_shows_the_values_of_the_table(material: Material) -> None:
    with drawing():
        section = complexity.section(material)
    figure = section.drawings[0].figure
    (table,) = section.tables
    # The captions of this world have colours that the parser does not know: too few objects to compare.
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["SRCC within prompts", "selection gain"]
    shown = next(line for line in figure.axes[0].lines if line.get_label() == "best probe").get_ydata()
    expected = [row[4].estimate for row in table.rows if row[:2] == ("shapes reward", "best probe")]
    np.testing.assert_allclose(np.asarray(shown, float), expected)
    assert "Suspicious would be" in section.explanation


@pytest.mark.parametrize(
    ("prompt", "objects"),
    [("a red circle", 1), ("a red circle left of a blue cross and a green square", 3), ("a photo of a dog", None)],
)
def test_objects_are_counted_by_the_grammar_of_captions(prompt: str, objects: int | None) -> None:
    assert complexity.count_objects(prompt) == objects


def test_small_groups_join_their_neighbours() -> None:
    counts = pd.Series([1] * 2 + [2] * 9 + [3] * 8 + [4] * 3)
    scale = complexity.single_bins("objects", counts)
    assert (scale.labels, scale.sizes) == (("1–2", "3–4"), [11, 11])
    even = complexity.equal_bins("words", pd.Series(np.arange(40)))
    assert (even.labels, even.sizes) == (("0–9", "10–19", "20–29", "30–39"), [10] * 4)
    lumpy = complexity.equal_bins("words", pd.Series([3] * 30 + [7] * 2))
    assert (lumpy.labels, lumpy.sizes) == (("3–7",), [32])


def test_prompts_of_another_world_have_words_only(material: Material) -> None:
    prompts = pd.Series([f"photo number {i} " + "very " * (i % 4) for i in range(40)])
    scales, unparsed, missing = complexity._scales(prompts)
    assert [scale.name for scale in scales] == ["words"]
    assert unparsed == ""
    assert missing == ["Number of objects: no test prompt is a caption of the shapes world, only words can be counted."]
    mixed = pd.Series(["a red circle", "a red cross and a blue circle"] * 10 + ["a photo"] * 3)
    scales, unparsed, missing = complexity._scales(mixed)
    assert [scale.sizes for scale in scales if scale.name == "objects"] == [[10, 10]]
    assert "3 test prompts are no captions" in unparsed
    assert missing == []


def test_without_a_cache_it_says_so(material: Material) -> None:
    section = complexity.section(dataclasses.replace(material, cache=None))
    assert section.drawings == ()
    assert "without it" in section.skipped[0]


def test_an_evaluator_that_the_best_does_not_predict_is_named(material: Material, tmp_path: Path) -> None:
    choice = dataclasses.replace(material.choice, evaluators=("shapes_reward", "image_reward"))
    with drawing():
        section = complexity.section(dataclasses.replace(material, choice=choice))
    assert "The best probe does not predict ImageReward." in section.skipped
    assert {row[0] for row in section.tables[0].rows} == {"shapes reward"}
