"""Transfer matrices: the frame holds the ordinary results, every other field what a probe says elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from probe_lab.cache import Cache, CacheWriter, write_scores
from probe_lab.probes.checkpoint import save_probe
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec
from probe_lab.report.analysis import applied, transferred
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import beside, transfer
from probe_lab.runs.table import write_results

EVALUATORS = ("shapes_reward", "shapes_binding")
DOWN, UP = "down_blocks.1.attentions.0/attention", "up_blocks.1.attentions.0/attention"


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with drawing():
        yield


def _probes(runs: Path, cache: Cache) -> dict[str, Probe]:
    """An untrained probe in every cell of the one training that all places have."""
    found = {}
    for number, ((step, tap), cell) in enumerate(applied.cells_of(load_results(runs)).items()):
        shape = cache.manifest.taps[tap]
        spec = ProbeSpec(
            kind="cnn",
            taps={tap: (shape[0], shape[1], shape[2])},
            evaluators=EVALUATORS,
            step=step,
            total_steps=cache.manifest.steps,
            width=8,
            embedding=8,
            depth=1,
        )
        torch.manual_seed(number)
        found[cell] = Probe(spec).eval()
        save_probe(runs / cell, found[cell])
    return found


@pytest.fixture
def world(simulated: Any, runs_copy: Path) -> tuple[Material, dict[str, Probe]]:
    cache = Cache(simulated.cache)
    probes = _probes(runs_copy, cache)
    results = load_results(runs_copy)
    return Material(results, choose(results, EVALUATORS, None), cache), probes


def _within(table: pd.DataFrame) -> float:
    groups = table.groupby("prompt_id")
    ranks = groups.apply(lambda g: stats.spearmanr(g["prediction"], g["target"]).statistic, include_groups=False)
    return float(ranks.mean())


def _test_rows(material: Material, cell: str, evaluator: str = "shapes_reward") -> pd.DataFrame:
    return material.results.predictions(cell, evaluator)


def _matrix(found: transferred.Found, name: str) -> transferred.Matrix:
    return next(matrix for matrix in found.matrices if matrix.name == name)


def test_evaluators_are_predictions_against_the_scores_of_others(
    world: tuple[Material, dict[str, Probe]], tmp_path: Path
) -> None:
    material, _ = world
    assert material.cache is not None
    folder = Path(shutil.copytree(material.cache.folder, tmp_path / "cache"))
    ids = np.arange(3, 300)
    scores = np.random.default_rng(4).normal(size=300).astype(np.float32)
    write_scores(folder, "clip_score", ids, scores[ids], metadata={})
    matrix = _matrix(transferred.transferred(dataclasses.replace(material, cache=Cache(folder))), "evaluator")
    assert matrix.rows == ("shapes reward", "shapes binding")
    assert matrix.columns == ("shapes reward", "shapes binding", "CLIPScore")
    cell = next(iter(material.results.seeds(material.choice.best).values()))
    tables = {name: _test_rows(material, cell, name) for name in EVALUATORS}
    for i, name in enumerate(EVALUATORS):
        for j, other in enumerate(EVALUATORS):
            expected = _within(tables[name].assign(target=tables[other]["target"]))
            found = matrix.fields[i][j]
            assert found.value is not None
            assert found.value.estimate == pytest.approx(expected, abs=1e-9)
            assert found.home is (i == j)
        clip = tables[name].assign(target=scores[tables[name]["sample_id"]])
        last = matrix.fields[i][2].value
        assert last is not None
        assert last.estimate == pytest.approx(_within(clip), abs=1e-6)


def test_steps_are_the_probe_on_the_arrays_of_another_step(world: tuple[Material, dict[str, Probe]]) -> None:
    material, probes = world
    assert material.cache is not None
    found = transferred.transferred(material)
    matrix = _matrix(found, "step")
    tap = material.choice.best.taps
    cells = applied.cells_of(material.results)
    steps = (1, 3, 5, 8)
    assert matrix.rows == matrix.columns == tuple(f"step {step}" for step in steps)
    for i, trained in enumerate(steps):
        rows = _test_rows(material, cells[trained, tap])
        for j, tested in enumerate(steps):
            value = matrix.fields[i][j].value
            assert value is not None
            if i == j:
                expected = material.results.scores.query(
                    f"cell == '{cells[trained, tap]}' and evaluator == 'shapes_reward' and split == 'test' "
                    "and metric == 'srcc_within'"
                )["estimate"].item()
            else:
                arrays = material.cache.read_all(f"{tested}/{tap}")[rows["sample_id"].to_list()].float()
                inputs = Inputs({tap: arrays}, torch.full((len(rows),), tested))
                prediction = probes[cells[trained, tap]].predict(inputs)[:, 0].numpy()
                expected = _within(rows.assign(prediction=prediction))
            assert value.estimate == pytest.approx(expected, abs=1e-6)
            assert matrix.fields[i][j].home is (i == j)
    assert set(found.sampled) == {(12, 12)}


def test_taps_transfer_within_their_kind_and_dashes_have_reasons(world: tuple[Material, dict[str, Probe]]) -> None:
    material, probes = world
    assert material.cache is not None
    matrix = _matrix(transferred.transferred(material), "tap")
    assert matrix.rows == matrix.columns == ("down 1.0 attn", "up 1 act", "up 1.0 attn")  # latent fits none of them
    cells = applied.cells_of(material.results)
    rows = _test_rows(material, cells[5, DOWN])
    arrays = material.cache.read_all(f"5/{UP}")[rows["sample_id"].to_list()].float()
    prediction = probes[cells[5, DOWN]].predict(Inputs({DOWN: arrays}, torch.full((len(rows),), 5)))[:, 0].numpy()
    value = matrix.fields[0][2].value
    assert value is not None
    assert value.estimate == pytest.approx(_within(rows.assign(prediction=prediction)), abs=1e-6)
    reasons = [[field.reason for field in row] for row in matrix.fields]
    other = "another kind of array"
    assert reasons == [["", other, ""], [other, "", other], ["", other, ""]]
    section = transfer.section(material)
    shown = [text.get_text() for text in section.drawings[2].figure.axes[0].texts]
    assert shown.count("–") == 4
    assert "A dash: it cannot be tested (another kind of array)" in section.explanation
    dashed = [row for row in section.tables[0].rows if row[5]]
    assert len(dashed) == 4


def test_backbones_are_tested_on_prompts_that_were_not_trained_on(
    world: tuple[Material, dict[str, Probe]], tmp_path: Path
) -> None:
    material, probes = world
    assert material.cache is not None
    folder = tmp_path / "caches" / "second"
    other = Path(shutil.copytree(material.results.folder, tmp_path / "other"))
    for path in other.glob("*/config.yaml"):
        path.write_text(f"name: other\ncache:\n  root: {folder.parent}\n  name: second\n")
    # Prompts 4 and 9 of the other's test split have texts that were trained on here.
    samples = material.cache.samples.copy()
    texts = samples.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    samples.loc[samples["prompt_id"] == 4, "prompt"] = texts[0]
    samples.loc[samples["prompt_id"] == 9, "prompt"] = texts[1]
    writer = CacheWriter(folder, material.cache.manifest, samples)
    for shard in writer.pending():
        arrays = {key: material.cache.read(key, shard) for key in material.cache.keys()}
        writer.write_shard(shard, arrays, [image for _, image in material.cache.iter_images(shard)])
    found = transferred.transferred(dataclasses.replace(material, others={"second": other}))
    matrix = _matrix(found, "backbone")
    assert matrix.columns == (material.results.folder.name, "other")  # both caches are of tiny-sd
    assert len(matrix.rows) == 6
    tap = matrix.rows.index(next(row for row in matrix.rows if row.endswith("down 1.0 attn")))
    cell = applied.cells_of(material.results)[5, DOWN]
    seen = {texts[p] for p in texts.index if p % 5 != 4}
    rows = _test_rows(material, cell)
    there = samples.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    rows = rows[~rows["prompt_id"].map(there).isin(seen)]
    assert 0 < rows["prompt_id"].nunique() < 12
    arrays = Cache(folder).read_all(f"5/{DOWN}")[rows["sample_id"].to_list()].float()
    prediction = probes[cell].predict(Inputs({DOWN: arrays}, torch.full((len(rows),), 5)))[:, 0].numpy()
    value = matrix.fields[tap][1].value
    assert value is not None
    assert value.estimate == pytest.approx(_within(rows.assign(prediction=prediction)), abs=1e-6)
    assert [field.home for field in matrix.fields[tap]] == [True, False]
    assert [field.home for field in matrix.fields[tap + 3]] == [False, True]


def test_what_cannot_be_shown_is_said(simulated: Any, world: tuple[Material, dict[str, Probe]], tmp_path: Path) -> None:
    material, _ = world
    nothing = transfer.section(dataclasses.replace(material, cache=None))
    assert [drawing.name for drawing in nothing.drawings] == ["transfer_evaluator"]
    assert nothing.skipped == ("Steps, taps and backbones: probes are applied to the cache, and the report has none.",)
    bare = load_results(simulated.runs)  # cells without weights
    section = transfer.section(dataclasses.replace(material, results=bare))
    assert [drawing.name for drawing in section.drawings] == ["transfer_evaluator"]
    assert "its probe cannot be loaded" in section.skipped[0]
    assert "--beside" in section.skipped[2]
    beside = transfer.section(dataclasses.replace(material, others={"quick": simulated.runs}))
    assert "Backbones: quick: its cells do not say which cache they were trained on." in beside.skipped


def test_an_experiment_of_baselines_beside_is_named(
    world: tuple[Material, dict[str, Probe]], simulated: Any, tmp_path: Path
) -> None:
    material, _ = world
    bare = Path(shutil.copytree(simulated.runs, tmp_path / "bare"))
    table = pd.read_parquet(bare / "results.parquet")
    write_results(bare, table[table["model"] != "cnn"])
    others = {"bare": bare}
    section = transfer.section(dataclasses.replace(material, others=others))
    assert "Backbones: bare: it holds baselines only, no probe was trained there." in section.skipped
    rivals = beside.rivals_of(material, "mine", others)
    assert len(beside.section(material, rivals).drawings) == 1
    rows = {row[0]: row[1:] for row in beside.table(material, rivals).rows}
    assert rows["probe, step 5"][1] is None
    assert rows["linear probe, step 5"][0] == rows["linear probe, step 5"][1]


def test_many_fields_rest_on_fewer_prompts_and_it_says_so(
    world: tuple[Material, dict[str, Probe]], monkeypatch: pytest.MonkeyPatch
) -> None:
    material, _ = world
    monkeypatch.setattr(applied, "MOST_IMAGES", 10)
    section = transfer.section(material)
    assert "rest on 10 of 12 test prompts" in section.explanation
    even = applied.spread_out(pd.DataFrame({"prompt_id": np.repeat(np.arange(100), 8)}), 160)
    assert len(even) == 160
    assert np.ptp(np.diff(even["prompt_id"].unique())) <= 1


def test_places_are_thinned_around_the_main_step() -> None:
    assert transferred.thinned([1, 3, 5, 8], 5) == [1, 3, 5, 8]
    kept = transferred.thinned(list(range(1, 26)), 7)
    assert len(kept) == transferred.MOST_PLACES
    assert {1, 7, 25} <= set(kept)
