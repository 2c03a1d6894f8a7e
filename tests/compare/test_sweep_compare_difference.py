"""A − B from the files of cells, and the command around all comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from compare_world import PROMPTS, change, write_runs
from rich.console import Console
from sweep_world import ACTIVATION, ATTENTION, make_experiment
from typer.testing import CliRunner

from probe_lab.cli import app
from probe_lab.compare import Query
from probe_lab.compare.command import answer
from probe_lab.compare.difference import difference
from probe_lab.compare.sheet import Sheet
from probe_lab.errors import ConfigError, DataError, ReportError
from probe_lab.metrics import METRICS, holm, paired_differences

WITHIN = Query(metrics=("srcc_within", "selection_gain"))
BOTH = ("shapes_reward", "shapes_binding")
PARTS = ("", "/lower", "/upper")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """mse and listwise × seeds 0, 1 and 2; the later, the worse its predictions."""
    grid = {"probe.loss": ["mse", "listwise"], "trainer.seed": [0, 1, 2]}
    return write_runs(make_experiment(tmp_path, grid))


def column(sheet: Sheet, name: str) -> list[list[float]]:
    found: list[list[float]] = sheet.frame[[name + part for part in PARTS]].to_numpy().tolist()
    return found


def test_is_the_paired_difference_of_the_predictions(folders: list[Path]) -> None:
    sheet = difference(folders[0].parent, folders[0].name, folders[5].name, WITHIN)
    assert sheet.frame[["evaluator", "metric"]].to_numpy().tolist() == [[e, m] for e in BOTH for m in WITHIN.metrics]
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (folders[0], folders[5])]
    for number, evaluator in enumerate(BOTH):
        a, b = (t[(t["evaluator"] == evaluator) & (t["split"] == "test")] for t in tables)
        found = paired_differences(a["prediction"], b["prediction"], a["target"], a["prompt_id"], ["srcc_within"])
        for name, value in zip(("A", "B", "difference"), found["srcc_within"], strict=True):
            assert column(sheet, name)[2 * number] == [value.estimate, value.lower, value.upper]
    assert sheet.frame["prompts"].tolist() == [PROMPTS] * 4
    assert sheet.frame["apart"].tolist() == ["yes", "yes", "no", "no"]  # of ten prompts, four rows considered
    assert sheet.title.startswith("A − B on the test split")


def test_a_filter_holds_for_both_sides(tmp_path: Path) -> None:
    grid = {"probe.loss": ["mse", "listwise"], "probe.taps": [ATTENTION, ACTIVATION]}
    folders = write_runs(make_experiment(tmp_path, grid))
    sides = ('loss == "mse"', 'loss == "listwise"')
    found = difference(tmp_path / "runs" / "tiny", *sides, Query(where='"activation" in taps'))
    assert found.notes[:2] == (f"A: {folders[1].name}", f"B: {folders[3].name}")
    with pytest.raises(ReportError, match="names 2 cells, which differ in taps"):
        difference(folders[0].parent, *sides, Query())
    with pytest.raises(ReportError, match="none of the 2 finished cells"):
        difference(folders[0].parent, folders[0].name, folders[1].name, Query(where='loss == "listwise"'))


def test_a_cell_does_not_differ_from_itself(folders: list[Path]) -> None:
    sheet = difference(folders[0].parent, folders[0].name, folders[0].name, Query())
    assert column(sheet, "difference") == [[0, 0, 0]] * (2 * (len(METRICS) - 1))
    assert set(sheet.frame["apart"]) == {"no"}


def test_training_seeds_are_averaged_and_part_of_the_interval(folders: list[Path]) -> None:
    sheet = difference(folders[0].parent, 'loss == "mse"', 'loss == "listwise" and seed < 2', WITHIN)
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in folders]
    parts = [t[(t["evaluator"] == "shapes_reward") & (t["split"] == "test")] for t in tables]
    a, b = (np.stack([part["prediction"] for part in side]) for side in (parts[:3], parts[3:5]))
    expected = paired_differences(a, b, parts[0]["target"], parts[0]["prompt_id"], ["srcc_within"])["srcc_within"][2]
    assert column(sheet, "difference")[0] == pytest.approx([expected.estimate, expected.lower, expected.upper])
    assert "and 2 more: training seeds 0, 1, 2, their mean" in sheet.notes[0]
    assert "training seeds 0, 1, their mean" in sheet.notes[1]
    assert not any("another training" in note for note in sheet.notes)


def test_a_single_training_seed_is_said(folders: list[Path]) -> None:
    """Of the side that has it; a ridge has no other training."""
    runs, mse, listwise = folders[0].parent, 'loss == "mse"', 'loss == "listwise"'
    one = difference(runs, f"{mse} and seed == 0", listwise, WITHIN).notes[-1]
    assert one.startswith("A has one training seed: how much another training would differ is not in the intervals")
    both = difference(runs, f"{mse} and seed == 0", f"{listwise} and seed == 1", WITHIN).notes[-1]
    assert both.startswith("A and B have one training seed")
    change(folders[0], model="linear")
    linear = difference(runs, folders[0].name, listwise, WITHIN).notes
    assert not any("training seed:" in note for note in linear)


def test_what_is_apart_has_all_rows_considered(folders: list[Path]) -> None:
    runs = folders[0].parent
    sheet = difference(runs, folders[0].name, folders[1].name, Query())
    alone = [
        difference(runs, folders[0].name, folders[1].name, Query(metrics=(metric,), evaluators=(evaluator,)))
        for evaluator, metric in sheet.frame[["evaluator", "metric"]].to_numpy()
    ]
    expected = holm([one.frame["p"][0] for one in alone])
    assert sheet.frame["p"].tolist() == pytest.approx(expected.tolist(), rel=0.05)
    assert sheet.frame["apart"].tolist() == ["yes" if p < 0.05 else "no" for p in expected]


def test_cells_are_named_by_any_part_that_is_one_settings(folders: list[Path]) -> None:
    whole = difference(folders[0].parent, folders[0].name, folders[3].name, WITHIN)
    digits = difference(folders[0].parent, folders[0].name[-8:], folders[3].name[-8:], WITHIN)
    assert digits.frame.equals(whole.frame)
    for part, seeds in (("-mse-", "0, 1, 2"), (folders[3].name.partition("-seed")[0], "0, 1, 2")):
        assert f"training seeds {seeds}" in difference(folders[0].parent, part, folders[0].name, WITHIN).notes[0]
    with pytest.raises(ReportError, match="names 6 cells, which differ in loss: "):
        difference(folders[0].parent, "step05", folders[0].name, WITHIN)
    with pytest.raises(ReportError, match=r"none of the 6 finished cells .* has 'step07' in its name"):
        difference(folders[0].parent, "step07", folders[0].name, WITHIN)
    with pytest.raises(ReportError, match="matches 'step == 7'"):
        difference(folders[0].parent, folders[0].name, "step == 7", WITHIN)


def test_auc_needs_the_threshold_of_both(folders: list[Path]) -> None:
    runs, names = folders[0].parent, (folders[0].name, folders[5].name)
    change(folders[0], thresholds=dict.fromkeys(BOTH, 0.1))
    without = difference(runs, *names, Query())
    assert "auc" not in set(without.frame["metric"])
    assert any(note.startswith("no auc for shapes_reward, shapes_binding") for note in without.notes)
    change(folders[5], thresholds={BOTH[0]: 0.1, BOTH[1]: 0.2})
    found = difference(runs, *names, Query(metrics=("auc",)))
    assert found.frame["evaluator"].tolist() == [BOTH[0]]
    assert found.frame["A"][0] > found.frame["B"][0]


def test_what_the_two_do_not_share_is_named(folders: list[Path]) -> None:
    runs, names = folders[0].parent, (folders[0].name, folders[1].name)
    with pytest.raises(ReportError, match="not both of A and B predict the evaluator 'shapes_rewrd': did you mean"):
        difference(runs, *names, Query(evaluators=("shapes_rewrd",)))
    with pytest.raises(ConfigError, match="did you mean 'srcc_within'"):
        difference(runs, *names, Query(metrics=("srcc_witin",)))
    path = folders[1] / "predictions.parquet"
    table = pd.read_parquet(path)
    table[table["prompt_id"] % 2 == 0].to_parquet(path)
    with pytest.raises(DataError, match="60 and 30 images"):
        difference(runs, *names, WITHIN)
    path.write_bytes(b"PAR1")
    with pytest.raises(ReportError, match=r"predictions.parquet cannot be read"):
        difference(runs, *names, WITHIN)


def test_sides_in_smaller_batches_are_said(folders: list[Path]) -> None:
    change(folders[0], reduced={"batch_prompts": 4, "accumulate": 4, "error": "out of memory"})
    sheet = difference(folders[0].parent, folders[0].name, folders[2].name, Query(), resamples=5)
    assert "(1 of 1 in smaller batches, as memory ran out)" in sheet.notes[0]
    assert "memory" not in sheet.notes[1]


def test_stopped_sides_and_validation_are_said(folders: list[Path]) -> None:
    change(folders[1], stopped={"by": "halving", "epochs": 2})
    sheet = difference(folders[0].parent, "-mse-", "-listwise-", Query(splits=("val",)))
    assert "(1 of 3 stopped before the last epoch)" in sheet.notes[0]
    assert sheet.title.startswith("A − B on the val split")


def test_the_terminal_shows_twenty_rows_and_a_file_all(folders: list[Path], tmp_path: Path) -> None:
    many = write_runs(make_experiment(tmp_path, {"probe.width": list(range(8, 200, 8))}, name="many"))
    console = Console(width=200)
    with console.capture() as shown:
        answer(many[0].parent, Query(), console, files={})
    assert shown.get().count("│ cnn ") == 20
    assert "20 of 24 rows: `--limit 0` shows all" in shown.get()
    with console.capture() as shown:
        answer(many[0].parent, Query(), console, files={"csv": str(tmp_path / "table.csv"), "json": None})
    assert shown.get() == f"24 rows: {tmp_path}/table.csv\n"
    assert len(pd.read_csv(tmp_path / "table.csv")) == 24
    with pytest.raises(ReportError, match="name a file that can be made"):
        answer(many[0].parent, Query(), console, files={"json": str(tmp_path / "no" / "table.json")})


def command(experiment: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["compare", str(experiment), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_line(folders: list[Path], tmp_path: Path) -> None:
    experiment = tmp_path / "tiny.yaml"
    experiment.write_text((folders[0] / "config.yaml").read_text())
    rows = json.loads(command(experiment, "--json", "-", "--filter", "seed == 1", "--metric", "srcc,srcc_within"))
    assert [row["cell"] for row in rows] == [folders[4].name, folders[1].name]
    assert rows[0]["shapes_reward/srcc"] == pytest.approx(0.04)
    group = command(experiment, "--markdown", "-", "--group", "loss", "--evaluator", "shapes_binding")
    assert "| listwise | 1 | 3 | 0.040 [-0.060, 0.140] |" in group
    best = command(experiment, "--csv", "-", "--best", "loss", "--seeds", "--split", "test", "--sort", "loss")
    assert best.splitlines()[1].startswith("listwise,cnn,5,")
    diff = command(experiment, "--diff", folders[0].name[-8:], 'loss == "mse" and seed == 0', "--metric", "ndcg")
    assert "0.000 [0.000, 0.000]" in diff
