"""Reading what a sweep wrote, and saying what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe_lab.errors import ReportError
from probe_lab.metrics import measured_predictions
from probe_lab.metrics.bootstrap import resample
from probe_lab.report.analysis.chosen import variant_text
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.origin import Origin
from probe_lab.report.analysis.results import Variant
from probe_lab.runs.failures import Failure
from probe_lab.runs.table import write_results


def test_missing_results_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="run `probe-lab sweep nothing` first"):
        load_results(tmp_path / "nothing")


def test_missing_columns_are_named(runs_copy: Path) -> None:
    table = pd.read_parquet(runs_copy / "results.parquet")
    write_results(runs_copy, table.drop(columns=["lower", "axes"]))
    with pytest.raises(ReportError, match="lacks the columns lower, axes"):
        load_results(runs_copy)


def test_an_empty_or_broken_table_is_refused(runs_copy: Path) -> None:
    table = pd.read_parquet(runs_copy / "results.parquet")
    write_results(runs_copy, table.head(0))
    with pytest.raises(ReportError, match="no rows"):
        load_results(runs_copy)
    (runs_copy / "results.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ReportError, match="cannot be read"):
        load_results(runs_copy)


@pytest.mark.parametrize("name", ["../x", "/x", "..", "[/x]", "a\x1b[2J", ".hidden"])
@pytest.mark.parametrize("column", ["cell", "evaluator"])
def test_names_that_would_leave_their_folder_are_refused(runs_copy: Path, column: str, name: str) -> None:
    table = pd.read_parquet(runs_copy / "results.parquet")
    write_results(runs_copy, table.assign(**{column: name}))
    with pytest.raises(ReportError, match="which is no name") as caught:
        load_results(runs_copy)
    assert "\x1b" not in str(caught.value)


def test_a_cell_without_metrics_is_refused(runs_copy: Path) -> None:
    next(runs_copy.glob("linear*/metrics.json")).unlink()
    with pytest.raises(ReportError, match=r"metrics\.json cannot be read"):
        load_results(runs_copy)


def test_means_are_over_training_seeds(simulated: Any) -> None:
    results = load_results(simulated.runs)
    table = pd.read_parquet(simulated.runs / "results.parquet")
    variant = Variant("cnn", 8, "up_blocks.1/activation", "listwise", "{}")
    rows = table[
        (table["model"] == "cnn")
        & (table["step"] == 8)
        & (table["taps"] == "up_blocks.1/activation")
        & (table["metric"] == "selection_gain")
        & (table["evaluator"] == "shapes_binding")
    ]
    assert len(rows) == 2
    value = results.value(variant, "shapes_binding", "selection_gain")
    assert value is not None
    assert value.estimate == pytest.approx(rows["estimate"].mean())
    assert results.estimate(variant, "shapes_binding", "selection_gain") == pytest.approx(value.estimate)
    tables = {variant: results.tables(variant)}
    (found,) = measured_predictions(tables, ["selection_gain"], evaluator="shapes_binding")[variant].values()
    expected = found.interval(resample(len(found.influence), 1000, 0), 0.95)
    assert (value.lower, value.upper) == pytest.approx((expected.lower, expected.upper))
    assert list(results.seeds(variant)) == [0, 1]


def test_a_single_seed_has_the_interval_of_its_own_file(simulated: Any) -> None:
    results = load_results(simulated.runs)
    variant = next(one for one, seeds in results.variants.items() if len(seeds) == 1)
    table = pd.read_parquet(simulated.runs / "results.parquet")
    (cell,) = results.seeds(variant).values()
    rows = table[(table["cell"] == cell) & (table["metric"] == "srcc") & (table["evaluator"] == "shapes_reward")]
    value = results.value(variant, "shapes_reward", "srcc")
    assert value is not None
    assert (value.estimate, value.lower, value.upper) == tuple(rows[["estimate", "lower", "upper"]].iloc[0])


def test_validation_comes_from_the_cells(simulated: Any) -> None:
    results = load_results(simulated.runs)
    path = next(simulated.runs.glob("linear*/metrics.json"))
    expected = next(
        row["estimate"]
        for row in json.loads(path.read_text())["metrics"]
        if (row["split"], row["metric"], row["evaluator"]) == ("val", "srcc_within", "shapes_reward")
    )
    variant = Variant("linear", 5, "up_blocks.1.attentions.0/attention", "listwise", "{}")
    value = results.value(variant, "shapes_reward", "srcc_within", "val")
    assert value is not None
    assert value.estimate == pytest.approx(expected)
    assert results.value(variant, "shapes_reward", "srcc_within", "test") != value


def test_other_axes_tell_variants_apart(runs_copy: Path) -> None:
    table = pd.read_parquet(runs_copy / "results.parquet")
    linear = table["model"] == "linear"
    axes = {"probe.step": 5, "trainer.seed": 3, "probe.oversample": 0.5}
    table.loc[linear, "axes"] = json.dumps(axes)
    write_results(runs_copy, table)
    cells = load_results(runs_copy).cells
    assert set(cells.loc[cells["model"] == "linear", "extra"]) == {'{"oversample": 0.5}'}
    assert set(cells.loc[cells["model"] != "linear", "extra"]) == {"{}"}


def test_keys_that_end_alike_keep_their_whole_names(runs_copy: Path) -> None:
    """The seed of the images is not that of the training, and a bare "name" would not say of what."""
    table = pd.read_parquet(runs_copy / "results.parquet")
    swept: dict[str, object] = {"seed": 2, "cache.name": "b", "sampling.width": 64, "trainer.devices": 2}
    own = {"probe.model": "linear", "probe.step": 5, "probe.taps": "middle", "probe.loss": "mse", "trainer.seed": 0}
    linear = table["model"] == "linear"
    table.loc[linear, "axes"] = json.dumps(swept | own)
    write_results(runs_copy, table)
    cells = load_results(runs_copy).cells
    (extra,) = set(cells.loc[cells["model"] == "linear", "extra"])
    assert json.loads(extra) == {"cache.name": "b", "sampling.width": 64, "seed": 2, "devices": 2}
    table.loc[linear, "axes"] = json.dumps({"probe.width": 32})
    table.loc[table["model"] == "prompt_only", "axes"] = json.dumps({"probe.width": 32, "sampling.width": 64})
    write_results(runs_copy, table)
    cells = load_results(runs_copy).cells
    assert {json.dumps({"probe.width": 32}), json.dumps({"probe.width": 32, "sampling.width": 64})} <= set(
        cells["extra"]
    )
    table["axes"] = [json.dumps({"probe.width": 32 if one else 64}) for one in linear]
    write_results(runs_copy, table)
    cells = load_results(runs_copy).cells
    assert set(cells.loc[cells["model"] == "linear", "extra"]) == {'{"width": 32}'}


def test_cells_that_differ_outside_the_sweep_are_told_apart(runs_copy: Path) -> None:
    """`train` with an override adds such a cell; it must not become another training seed of the first."""
    table = pd.read_parquet(runs_copy / "results.parquet")
    linear = table[table["model"] == "linear"]
    name = linear["cell"].iloc[0]
    other = f"{name}-0123abcd"
    shutil.copytree(runs_copy / name, runs_copy / other)
    write_results(runs_copy, pd.concat([table, linear.assign(cell=other)]))
    found = [variant for variant in load_results(runs_copy).variants if variant.model == "linear"]
    assert [variant_text(variant, step=False).partition(", cell")[2] for variant in found] == ["", " 0123abcd"]


def test_cells_of_two_sweeps_are_told_apart_by_what_their_configurations_say(runs_copy: Path) -> None:
    """Another learning rate that no axis names must not become another training seed."""
    moved = sorted(path.parent.name for path in runs_copy.glob("cnn-5-*listwise-1/config.yaml"))
    for cell in moved:
        path = runs_copy / cell / "config.yaml"
        path.write_text(f"{path.read_text()}trainer:\n  learning_rate: 0.5\n")
    results = load_results(runs_copy)
    found = {variant: seeds for variant, seeds in results.variants.items() if set(seeds.values()) & set(moved)}
    assert sorted(cell for seeds in found.values() for cell in seeds.values()) == moved
    assert {variant.extra for variant in found} == {'{"learning_rate": 0.5}'}
    assert {variant.extra for variant in results.variants if variant not in found} == {"{}"}


def test_cells_of_two_backbones_are_never_one(runs_copy: Path) -> None:
    """Of one variant by all that the table says; only their configurations tell which images they are of."""
    moved = sorted(path.parent.name for path in runs_copy.glob("cnn-5-*listwise-1/config.yaml"))
    for path in runs_copy.glob("*/config.yaml"):
        name, cache = ("tiny-sd3", "other") if path.parent.name in moved else ("tiny-sd", "")
        text = f"name: quick\nbackbone:\n  name: {name}\ncache:\n  root: a\n  name: '{cache}'\nevaluators:\n- x\n"
        path.write_text(text)
    results = load_results(runs_copy)
    (other,) = results.elsewhere
    assert (results.origin, other.origin) == (Origin("tiny-sd", "quick"), Origin("tiny-sd3", "other"))
    assert sorted(other.cells["cell"]) == moved
    assert not set(results.scores["cell"]) & set(moved)
    everything = pd.read_parquet(runs_copy / "results.parquet")
    assert len(results.cells) + len(other.cells) == everything["cell"].nunique()
    variant = Variant("cnn", 5, "up_blocks.1/activation", "listwise", "{}")
    rows = everything.query("model == 'cnn' and step == 5 and loss == 'listwise' and taps == 'up_blocks.1/activation'")
    rows = rows[rows["metric"].eq("srcc_within") & rows["evaluator"].eq("shapes_reward")].set_index("seed")
    for part, seed in ((results, 0), (other, 1)):
        value = part.value(variant, "shapes_reward", "srcc_within")
        assert value is not None
        assert value.estimate == pytest.approx(rows.loc[seed, "estimate"])
        assert list(part.seeds(variant)) == [seed]


def test_the_usual_value_of_a_swept_key_goes_without_saying(runs_copy: Path) -> None:
    table = pd.read_parquet(runs_copy / "results.parquet")
    values = (table["model"] == "linear").map({True: 0.9, False: 0.0})
    table["axes"] = [json.dumps({"probe.ema": ema, "trainer.seed": 0}) for ema in values]
    write_results(runs_copy, table)
    cells = load_results(runs_copy).cells
    assert set(cells.loc[cells["model"] == "linear", "extra"]) == {'{"ema": 0.9}'}
    assert set(cells.loc[cells["model"] != "linear", "extra"]) == {"{}"}


def test_predictions_are_of_one_split_and_evaluator(simulated: Any) -> None:
    results = load_results(simulated.runs)
    cell = results.cells["cell"].iloc[0]
    test = results.predictions(cell, "shapes_reward")
    val = results.predictions(cell, "shapes_reward", "val")
    assert len(test) == 12 * simulated.world.seeds
    assert set(test["prompt_id"]).isdisjoint(val["prompt_id"])
    assert test["sample_id"].is_monotonic_increasing


def test_a_table_of_the_types_that_a_sweep_writes_is_read(runs_copy: Path) -> None:
    before = load_results(runs_copy)
    words = ["cell", "model", "taps", "loss", "evaluator", "split", "metric", "axes"]
    table = pd.read_parquet(runs_copy / "results.parquet").astype(dict.fromkeys(words, "string"))
    write_results(runs_copy, table)
    after = load_results(runs_copy)
    assert after.variants == before.variants
    assert set(after.cells["extra"]) == {"{}"}


def test_predictions_of_a_cell_are_read_once(runs_copy: Path) -> None:
    results = load_results(runs_copy)
    cell = results.cells["cell"].iloc[0]
    first = results.predictions(cell, "shapes_reward")
    (runs_copy / cell / "predictions.parquet").unlink()
    pd.testing.assert_frame_equal(results.predictions(cell, "shapes_reward"), first)
    assert not results.predictions(cell, "shapes_binding", "val").empty
    with pytest.raises(ReportError, match="cannot be read"):
        load_results(runs_copy).predictions(cell, "shapes_reward")


def test_variants_are_in_order_of_their_cells_with_their_seeds_in_order(runs_copy: Path) -> None:
    table = pd.read_parquet(runs_copy / "results.parquet").sort_values("seed", ascending=False, kind="stable")
    write_results(runs_copy, table)
    results = load_results(runs_copy)
    assert next(iter(results.variants)).taps == results.cells["taps"].iloc[0]
    assert sum(map(len, results.variants.values())) == len(results.cells)
    for variant, seeds in results.variants.items():
        assert list(seeds) == sorted(seeds)
        for seed, cell in seeds.items():
            row = results.cells[results.cells["cell"] == cell].iloc[0]
            expected = (variant.model, variant.step, variant.loss, seed)
            assert (row["model"], row["step"], row["loss"], row["seed"]) == expected


def test_failures(runs_copy: Path) -> None:
    (runs_copy / "failures.json").write_text('[{"cell": "a", "error": "b"}]')
    assert load_results(runs_copy).failures == (Failure("a", "b"),)
    (runs_copy / "failures.json").unlink()
    assert load_results(runs_copy).failures == ()
    for damaged in (b'{"cell": 1}', b"\xff\xfe[]", b"[" * 10_000, b"3", b'[{"cell": ["a"], "error": "b"}]', b'["a"]'):
        (runs_copy / "failures.json").write_bytes(damaged)
        with pytest.raises(ReportError, match=r"failures\.json is not a list of"):
            load_results(runs_copy)
    (runs_copy / "failures.json").unlink()
    os.mkfifo(runs_copy / "failures.json")  # which nobody writes into
    with pytest.raises(ReportError, match=r"failures\.json is not a list of"):
        load_results(runs_copy)
