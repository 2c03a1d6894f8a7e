"""A sweep over two backbones: one report that never mixes them, and says which part is of which."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe_lab.cache import Cache
from probe_lab.errors import ReportError
from probe_lab.report import build
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.origin import Origin
from probe_lab.report.sections import beside, elsewhere, losses, which_loss
from probe_lab.safe_names import slug

EVALUATORS = ("shapes_reward", "shapes_binding")


@pytest.fixture
def page(two_backbones: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "FAMILIES", (which_loss.section, losses.section))
    monkeypatch.setattr(elsewhere, "_FAMILIES", (losses.section,))
    return build.build_report(
        runs=two_backbones.runs, cache=two_backbones.cache, out=tmp_path / "r", title="t", evaluators=EVALUATORS
    )


def rows_of(page: Path, table: str) -> list[dict[str, str]]:
    with (page.parent / "tables" / f"{table}.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_part_has_the_cells_of_one_backbone(page: Path, two_backbones: Any) -> None:
    results = pd.read_parquet(two_backbones.runs / "results.parquet")
    away = set(results.loc[results["taps"].str.contains("transformer"), "cell"])
    here = set(results["cell"]) - away
    assert (len(here), len(away)) == (9, 8)
    assert {row["cell"] for row in rows_of(page, "cells")} == here
    assert {row["cell"] for row in rows_of(page, "cells_tiny_sd3")} == away
    assert {row["other keys"] for row in rows_of(page, "cells")} == {""}
    text = page.read_text()
    assert "17 cells were trained" in text
    assert "“On tiny-sd3” of 8 cells (cache other), and all the rest is of the 9 cells of tiny-sd (cache cache)" in text
    part = text[text.index('<section id="on_tiny_sd3">') :]
    part = part[: part.index("</section>")]
    assert "block 3 attn" in part
    assert "up 1.0 attn" not in part
    first = text[text.index('<section id="headline">') : text.index('<section id="which_loss">')]
    assert "block 3 attn" not in first
    for number in ("tiny_sd", "tiny_sd3"):
        for evaluator in EVALUATORS:
            assert (page.parent / "figures" / f"which_loss_{number}_{evaluator}.pdf").stat().st_size > 5_000


def test_the_answer_is_on_the_page_and_in_the_tables(page: Path, two_backbones: Any) -> None:
    summary = rows_of(page, "which_loss")
    (chosen,) = [row for row in summary if f"Train with {row['loss']}" in page.read_text()]
    assert float(chosen["validation SRCC within"]) == max(float(row["validation SRCC within"]) for row in summary)
    pairs = [rows_of(page, f"which_loss_{o}_{e}") for o in ("tiny_sd", "tiny_sd3") for e in EVALUATORS]
    for i, row in enumerate(summary):
        for column, whole in (("SRCC within", "test SRCC within"), ("gain", "selection gain")):
            mean = sum(float(pair[i][column]) for pair in pairs) / 4
            assert float(row[whole]) == pytest.approx(mean)
        assert row["apart from the best"] == f"{sum(pair[i]['apart'] == 'yes' for pair in pairs)} of 4"
    reference = next(row for row in summary if row["loss"] == "MSE")
    assert reference["SRCC minus MSE"] == ""
    assert float(chosen["SRCC minus MSE"] or 0) == pytest.approx(
        float(chosen["test SRCC within"]) - float(reference["test SRCC within"])
    )


def test_the_cache_decides_which_backbone_is_in_front(two_backbones: Any) -> None:
    home = load_results(two_backbones.runs)
    (other,) = home.elsewhere
    turned = dataclasses.replace(other, elsewhere=(dataclasses.replace(home, elsewhere=()),))
    found = elsewhere.on_cache(turned, Cache(two_backbones.cache))
    assert [part.origin.backbone for part in (found, *found.elsewhere)] == ["tiny-sd", "tiny-sd3"]
    with pytest.raises(ReportError, match="is not the one"):
        elsewhere.on_cache(other, Cache(two_backbones.cache))


def test_the_same_prompts_on_two_backbones_are_told_apart_by_name(two_backbones: Any) -> None:
    """Samples do not tell them apart then: prompts and seeds of both are the same."""
    home = dataclasses.replace(load_results(two_backbones.runs), elsewhere=())
    twin = dataclasses.replace(home, origin=dataclasses.replace(home.origin, backbone="tiny-sd3", cache="other"))
    for first, second in ((home, twin), (twin, home)):
        both = dataclasses.replace(first, elsewhere=(second,))
        assert elsewhere.on_cache(both, Cache(two_backbones.cache)).origin == home.origin


def test_a_backbone_with_baselines_only_has_its_cells(two_backbones: Any) -> None:
    home = load_results(two_backbones.runs)
    (other,) = home.elsewhere
    assert elsewhere.statement(other) == ""
    bare = dataclasses.replace(other, cells=other.cells.assign(model="prompt_only"))
    material = build.Material(
        dataclasses.replace(home, elsewhere=(bare,)), build.choose(home, EVALUATORS, 5), Cache(two_backbones.cache)
    )
    (part,) = elsewhere.parts(material)
    assert "only baselines" in part.lead
    assert [section.key for section in part.sections] == ["cells"]
    assert [table.name for table in part.sections[0].tables] == ["cells_tiny_sd3"]


def test_more_experiments_beside_each_other_than_colours_are_told_apart(two_backbones: Any) -> None:
    results = dataclasses.replace(load_results(two_backbones.runs), elsewhere=())
    material = build.Material(results, build.choose(results, EVALUATORS, 5), None)
    rivals = [beside.Rival(f"experiment {i}", results) for i in range(16)]
    section = beside.section(material, rivals)
    lines = [line for line in section.drawings[0].figure.axes[0].lines if line.get_label().startswith("experiment")]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 16


def test_names_that_are_spelt_alike_in_letters_have_files_of_their_own(two_backbones: Any) -> None:
    names = ("tiny-sd (猫)", "tiny-sd (犬)", "tiny-sd", "tiny_sd", "tiny--sd", "-tiny-sd", "tiny sd", "猫", "犬", "")
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_]+", text) for text in slugs)
    assert [slug(name) for name in ("tiny-sd3", "sdxl")] == ["tiny_sd3", "sdxl"]
    home = load_results(two_backbones.runs)
    (other,) = home.elsewhere
    bare = dataclasses.replace(other, cells=other.cells.assign(model="prompt_only"))
    parts = [dataclasses.replace(bare, origin=Origin("tiny-sd", cache)) for cache in ("猫", "犬", "a-1", "a_1")]
    material = build.Material(
        dataclasses.replace(home, elsewhere=tuple(parts)), build.choose(home, EVALUATORS, 5), Cache(two_backbones.cache)
    )
    shown = elsewhere.parts(material)
    assert len({part.key for part in shown}) == len({part.sections[0].tables[0].name for part in shown}) == 4
