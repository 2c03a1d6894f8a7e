"""How the evaluators agree: what is shown is what the score files of the cache say, all splits together."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from probe_lab.cache import Cache, write_scores
from probe_lab.report import build, build_report
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import evaluator_agreement as agreement

NAMES = ["shapes_reward", "shapes_binding", "clip_score@large"]


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with drawing():
        yield


@pytest.fixture
def material(simulated: Any, tmp_path: Path) -> Material:
    """The simulated experiment with a third evaluator that lacks two scores."""
    folder = Path(shutil.copytree(simulated.cache, tmp_path / "cache"))
    rng = np.random.default_rng(5)
    ids = np.arange(2, len(simulated.world.samples()))
    noise = rng.normal(size=len(ids)).astype(np.float32)
    write_scores(folder, NAMES[2], ids, noise, metadata={})
    results = load_results(simulated.runs)
    return Material(results, choose(results, simulated.world.evaluators, None), Cache(folder))


def _scored(material: Material, names: list[str]) -> agreement.Scored:
    found = agreement.scored(material, names)
    assert found is not None
    return found


def test_matrices_are_those_of_all_scores_in_the_cache(material: Material) -> None:
    assert material.cache is not None
    found = _scored(material, NAMES)
    prompt = material.cache.samples["prompt_id"].to_numpy()
    scores = [material.cache.scores(name) for name in NAMES]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = np.isfinite(scores[i]) & np.isfinite(scores[j])
        x, y, group = scores[i][both], scores[j][both], prompt[both]
        overall = stats.spearmanr(x, y).statistic
        within = np.mean([stats.spearmanr(x[group == p], y[group == p]).statistic for p in np.unique(group)])
        for name, expected in (("overall", overall), ("within", within)):
            values = agreement.matrix(found, name)
            assert values[i, j] == values[j, i] == pytest.approx(expected, abs=1e-9)
    assert np.isnan(np.diag(agreement.matrix(found, "within"))).all()
    # The simulated world: what two evaluators share within prompts, and what prompts add to it.
    assert agreement.matrix(found, "overall")[0, 1] > agreement.matrix(found, "within")[0, 1] > 0.5
    assert abs(agreement.matrix(found, "overall")[0, 2]) < 0.2


def test_figure_shows_the_matrices_with_their_intervals(material: Material) -> None:
    found = _scored(material, NAMES)
    (drawn,) = agreement.section(found, NAMES).drawings
    within, overall, _ = drawn.figure.axes
    for ax, name in ((within, "within"), (overall, "overall")):
        shown = ax.images[0].get_array()
        assert shown is not None
        np.testing.assert_array_equal(np.ma.filled(shown, np.nan), agreement.matrix(found, name))
        texts = [text.get_text() for text in ax.texts]
        interval = getattr(found.pairs["shapes_reward", "shapes_binding"], name)
        assert texts.count(f"{interval.estimate:.2f}") >= 2  # both halves of the matrix
        assert texts.count(f"[{interval.lower:.2f}, {interval.upper:.2f}]") >= 2
        assert len(texts) == 2 * 6
    labels = [label.get_text() for label in within.get_yticklabels()]
    assert labels == ["shapes reward", "shapes binding", "CLIPScore (large)"]


def test_many_evaluators_have_their_intervals_in_the_table_only(material: Material) -> None:
    assert material.cache is not None
    names = [*NAMES, "pick_score", "hps_v2", "blip_itm"]
    for i, name in enumerate(names[3:]):
        noise = np.random.default_rng(i).normal(size=300)
        write_scores(material.cache.folder, name, np.arange(300), noise, metadata={})
    found = _scored(material, names)
    section = agreement.section(found, names)
    assert len(section.drawings[0].figure.axes[0].texts) == 6 * 5
    assert "The table has the 95 % intervals" in section.explanation
    pairs, spread = agreement.tables(found)
    assert (len(pairs.rows), len(spread.rows)) == (15, 6)


def test_missing_scores_are_counted_and_all_splits_are_used(material: Material) -> None:
    found = _scored(material, NAMES)
    text = " ".join(agreement.section(found, NAMES).explanation.split())
    assert "all 300 images of the cache count" in text
    assert "Images without a score (CLIPScore (large) 2)" in text
    pairs, spread = agreement.tables(found)
    assert [row[4] for row in pairs.rows] == [300, 298, 298]
    assert [(row[0], row[5], row[6]) for row in spread.rows] == [
        ("shapes reward", 300, 0), ("shapes binding", 300, 0), ("CLIPScore (large)", 298, 2)
    ]  # fmt: skip


def test_what_cannot_be_shown_is_said(material: Material) -> None:
    nothing = agreement.section(agreement.scored(dataclasses.replace(material, cache=None), NAMES), NAMES)
    assert nothing.drawings == ()
    assert "no cache" in nothing.skipped[0]
    assert agreement.scored(material, ["image_reward"]) is None
    one = _scored(material, ["shapes_reward", "image_reward"])
    section = agreement.section(one, ["shapes_reward", "image_reward"])
    assert section.drawings == ()
    assert section.skipped == (
        "ImageReward: the cache has no scores of it.",
        "Only shapes reward has scores: add a second evaluator to `evaluators` and run `probe-lab score`.",
    )
    assert [table.name for table in agreement.tables(one)] == ["spread"]


def test_an_evaluator_that_no_probe_predicts_can_be_compared(
    material: Material, simulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert material.cache is not None
    monkeypatch.setattr(build, "FAMILIES", ())
    out = tmp_path / "report"
    evaluators = simulated.world.evaluators
    build_report(
        runs=simulated.runs, cache=material.cache.folder, out=out, title="t", evaluators=evaluators, scored=NAMES
    )
    assert "How the evaluators agree" in (out / "index.html").read_text()
    assert (out / "figures" / "agreement.pdf").stat().st_size > 5_000
    with (out / "tables" / "agreement.csv").open() as file:
        rows = {(row["evaluator"], row["with"]): row for row in csv.DictReader(file)}
    expected = _scored(material, NAMES).pairs["shapes_reward", NAMES[2]]
    row = rows["shapes reward", "CLIPScore (large)"]
    for column, value in (("", expected.within.estimate), (" lower", expected.within.lower)):
        assert float(row[f"SRCC within prompts{column}"]) == pytest.approx(value)
    assert float(row["SRCC, all images upper"]) == pytest.approx(expected.overall.upper)
