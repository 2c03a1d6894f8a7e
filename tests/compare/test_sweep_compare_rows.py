"""Filtered, averaged, grouped and chosen cells, and the files that a table is written to."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tempfile
from pathlib import Path

import pytest
import yaml
from compare_world import change, set_estimate, write_runs
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sweep_world import ACTIVATION, ATTENTION, make_experiment
from typer.testing import CliRunner

from probe_lab.cli import app
from probe_lab.compare import Query, compared, words
from probe_lab.errors import ReportError
from probe_lab.runs.configs import Configs, flat
from probe_lab.sweep import cells, compare, comparison_table
from probe_lab.sweep.tap_patterns import TapNames

REWARD = "shapes_reward/srcc_within"
GRID = {"probe.step": [1, 5], "probe.loss": ["mse", "listwise"], "trainer.seed": [0, 1]}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Steps 1 and 5 × mse and listwise × seeds 0 and 1, the last axis fastest; cell i has i/100."""
    return write_runs(make_experiment(tmp_path, GRID))


def test_the_best_is_chosen_on_validation_and_reported_on_test(folders: list[Path]) -> None:
    """At step 1 the first cell is best on validation and the worst on test; the next three the other way round."""
    runs = folders[0].parent
    for number, folder in enumerate(folders):
        set_estimate(folder, "val", 0.9 - number / 10)
    table = compare(runs, Query(best=("step",)))
    assert table["cell"].tolist() == [folders[0].name, folders[4].name]
    assert table["step"].tolist() == [1, 5]
    assert table[REWARD].tolist() == pytest.approx([0.0, 0.04])
    assert table[f"val/{REWARD}"].tolist() == pytest.approx([0.9, 0.5])
    sheet = compared(runs, Query(best=("step",)))
    assert sheet.title.endswith("the best per step by srcc_within of shapes_reward on the validation split")


def test_the_best_of_averages_is_the_best_average(folders: list[Path]) -> None:
    """One lucky seed does not choose a loss."""
    for folder, value in zip(folders, (0.9, 0.1, 0.6, 0.6, 0.2, 0.2, 0.1, 0.1), strict=True):
        set_estimate(folder, "val", value)
    alone = compare(folders[0].parent, Query(best=("step",)))
    averaged = compare(folders[0].parent, Query(best=("step",), seeds=True))
    assert alone["loss"].tolist() == ["mse", "mse"]
    assert averaged["loss"].tolist() == ["listwise", "mse"]
    assert averaged["seeds"].tolist() == [2, 2]


def test_groups_weigh_settings_equally_whatever_the_number_of_their_seeds(folders: list[Path]) -> None:
    """Without seed 1 at step 1: listwise is the mean of 0.02 and (0.06 + 0.07)/2."""
    kept = [folder.name for folder in folders if folder not in (folders[1], folders[3])]
    table = compare(folders[0].parent, Query(group=("loss",), cells=kept))
    assert table["loss"].tolist() == ["listwise", "mse"]
    assert table["settings"].tolist() == [2, 2]
    assert table["cells"].tolist() == [3, 3]
    assert table[REWARD].tolist() == pytest.approx([(0.02 + 0.065) / 2, (0.0 + 0.045) / 2])
    assert table[f"{REWARD}/lower"].tolist() == pytest.approx([0.0425 - 0.1, 0.0225 - 0.1])
    both = compare(folders[0].parent, Query(group=("loss", "probe.step"), sort="step"))
    assert both[["loss", "step"]].to_numpy().tolist() == [["listwise", 1], ["mse", 1], ["listwise", 5], ["mse", 5]]


def test_a_cell_without_a_value_is_left_out_of_means(folders: list[Path]) -> None:
    entries = [e for e in json.loads((folders[1] / "metrics.json").read_text())["metrics"] if e["metric"] == "srcc"]
    change(folders[1], metrics=entries)
    table = compare(folders[0].parent, Query(seeds=True, sort="step"))
    assert table[REWARD].tolist() == pytest.approx([0.025, 0.0, 0.065, 0.045])


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ('step in [5, 10] and loss != "mse"', [7, 6]),
        ("probe.step == 1 and trainer.seed > 0", [3, 1]),
        ('"attention" in taps and not (seed == 0 or loss == "mse")', [7, 3]),
        (f'taps == "{ATTENTION}" and max_epochs >= 12 and step < 5 and seed == 0', [2, 0]),
    ],
)
def test_filters(folders: list[Path], where: str, found: list[int]) -> None:
    assert compare(folders[0].parent, Query(where=where))["cell"].tolist() == [folders[number].name for number in found]


@pytest.mark.parametrize(
    "where", ['taps == "both"', 'taps != "both"', 'taps in ["both", "x0"]', '"one" in taps', 'taps == "unused"']
)
def test_a_set_of_taps_is_the_same_in_select_and_in_filters(tmp_path: Path, where: str) -> None:
    """Whether an axis names the set or lists what is in it."""
    sets = {"both": [ATTENTION, "*/activation"], "one": ["x0"], "unused": ["latent"], "empty": ["nothing*"]}
    axis = ["x0", [ATTENTION, ACTIVATION], ATTENTION, "both", "one", ACTIVATION, "latent"]
    capture = {"taps": [ATTENTION, ACTIVATION, "latent", "x0"]}
    whole = make_experiment(tmp_path, {"sets": sets, "probe.taps": axis}, capture=capture)
    folders = write_runs(whole)
    assert len(folders) == 5
    selected = {cell.name for cell in cells(dataclasses.replace(whole, only=where))}
    assert selected == set(compare(whole.runs_folder, Query(where=where, sets=TapNames(whole)))["cell"])
    assert 0 < len(selected) < 5


def test_the_command_knows_the_sets_of_its_experiment(tmp_path: Path) -> None:
    sweep = {"sets": {"both": [ATTENTION, ACTIVATION]}, "probe.taps": ["both", "x0"]}
    experiment = make_experiment(tmp_path, sweep)
    folders = write_runs(experiment)
    file = tmp_path / "asked.yaml"
    content = experiment.to_dict()
    file.write_text(yaml.safe_dump(content | {"sweep": sweep}))
    result = CliRunner().invoke(app, ["compare", str(file), "--filter", 'taps == "both"', "--json", "-"])
    assert result.exit_code == 0, result.output
    assert [row["cell"] for row in json.loads(result.stdout)] == [folders[0].name]
    assert CliRunner().invoke(app, ["compare", str(file), "--filter", 'taps == "none"']).exit_code != 0


def test_columns_have_one_value_and_go_once_they_do_not_differ(tmp_path: Path) -> None:
    folders = write_runs(make_experiment(tmp_path, {"probe.width": [8, 16], "data.batch_prompts": [8, 16]}))
    assert {"probe.width", "data.batch_prompts"} <= set(compare(folders[0].parent).columns)
    kept = compare(folders[0].parent, Query(where="width == 8"))
    assert "probe.width" not in kept
    assert kept["data.batch_prompts"].tolist() == [16, 8]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("", [7, 6, 5, 4, 3, 2, 1, 0]),
        ("srcc", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("shapes_reward/srcc", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("shapes_binding", [7, 6, 5, 4, 3, 2, 1, 0]),
        ("loss", [7, 6, 3, 2, 5, 4, 1, 0]),
        ("seed", [6, 4, 2, 0, 7, 5, 3, 1]),
    ],
)
def test_numbers_are_sorted_best_first_and_keys_in_their_order_then_best_first(
    folders: list[Path], sort: str, order: list[int]
) -> None:
    for number, folder in enumerate(folders):
        set_estimate(folder, "test", 0.5 - number / 100, "srcc")
    table = compare(folders[0].parent, Query(metrics=("srcc_within", "srcc"), sort=sort))
    assert table["cell"].tolist() == [folders[number].name for number in order]


def test_several_metrics_and_splits_are_named_as_in_mlflow(folders: list[Path]) -> None:
    query = Query(metrics=("srcc", "srcc_within"), splits=("val", "test"), evaluators=("shapes_binding",))
    numbers = [column for column in compare(folders[0].parent, query) if column.startswith(("shapes", "val/"))]
    assert numbers[::3] == [
        "val/shapes_binding/srcc", "val/shapes_binding/srcc_within", "shapes_binding/srcc", "shapes_binding/srcc_within"
    ]  # fmt: skip
    console = Console(width=200)
    with console.capture() as shown:
        console.print(comparison_table(folders[0].parent, query))
    assert "validation split and test split" in shown.get()


def test_stopped_cells_are_marked(folders: list[Path]) -> None:
    assert "stopped" not in compare(folders[0].parent)
    change(folders[2], stopped={"by": "halving", "epochs": 4})
    marked = compare(folders[0].parent, Query(sort="loss"))
    assert marked["stopped"].tolist() == ["", "", "", "halving, 4 epochs", "", "", "", ""]
    assert compare(folders[0].parent, Query(seeds=True, sort="loss"))["stopped"].tolist() == ["", "1 of 2", "", ""]
    assert compare(folders[0].parent, Query(group=("loss",), sort="loss"))["stopped"].tolist() == ["1 of 4", ""]
    assert "1 of the cells were stopped" in " ".join(compared(folders[0].parent, Query()).notes)
    assert "stopped" not in compare(folders[0].parent, Query(where='loss == "mse"'))


def test_cells_in_smaller_batches_are_marked(folders: list[Path]) -> None:
    assert "reduced" not in compare(folders[0].parent)
    change(folders[2], reduced={"batch_prompts": 4, "accumulate": 4, "error": "out of memory"})
    marked = compare(folders[0].parent, Query(sort="loss"))["reduced"].tolist()
    assert marked == ["", "", "", "4 prompts per batch", "", "", "", ""]
    assert compare(folders[0].parent, Query(group=("loss",), sort="loss"))["reduced"].tolist() == ["1 of 4", ""]
    assert "1 of the cells were trained in smaller batches" in " ".join(compared(folders[0].parent, Query()).notes)


def test_what_changes_no_result_makes_no_other_setting(tmp_path: Path) -> None:
    write_runs(make_experiment(tmp_path, {"trainer.seed": [0]}))
    elsewhere = make_experiment(
        tmp_path,
        {"trainer.seed": [1]},
        data={"residency": "stream"},
        trainer={"accelerator": "auto"},
        sampling={"batch_size": 4},
        scoring={"device": "cuda"},
        cache={"name": "tiny", "shard_size": 8},
    )
    write_runs(elsewhere)
    table = compare(elsewhere.runs_folder, Query(seeds=True))
    assert table["seeds"].tolist() == [2]
    assert not any("." in column for column in table.columns)
    write_runs(make_experiment(tmp_path, {"trainer.seed": [2]}, cache={"name": "other"}))
    write_runs(make_experiment(tmp_path, {"trainer.seed": [3]}, scoring={"dtype": "float16"}))
    apart = compare(elsewhere.runs_folder, Query(seeds=True))
    assert sorted(zip(apart["cache.name"], apart["scoring.dtype"], apart["seeds"], strict=True)) == [
        ("other", "float32", 1),
        ("tiny", "float16", 1),
        ("tiny", "float32", 2),
    ]


def test_csv_json_and_markdown_hold_the_table(folders: list[Path]) -> None:
    for folder in folders[:7]:
        change(folder, metrics=[])
    sheet = compared(folders[0].parent, Query(sort="step", evaluators=("shapes_reward",), limit=2))
    rows = list(csv.DictReader(io.StringIO(sheet.text("csv"))))
    assert [row["cell"] for row in rows] == [folders[2].name, folders[3].name]
    assert rows[0][REWARD] == ""
    assert json.loads(sheet.text("json"))[1] == {
        "cell": folders[3].name, "model": "cnn", "step": 1, "taps": ATTENTION, "loss": "listwise", "seed": 1,
        REWARD: None, f"{REWARD}/lower": None, f"{REWARD}/upper": None,
    }  # fmt: skip
    best = compared(folders[0].parent, Query(evaluators=("shapes_reward",))).text("markdown").splitlines()
    assert best[2:5] == [
        "| cell | model | step | taps | loss | seed | shapes_reward |",
        "| --- | --- | --- | --- | --- | --- | ---: |",
        f"| {folders[7].name} | cnn | 5 | {ATTENTION} | listwise | 1 | 0.070 [-0.030, 0.170] |",
    ]


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(-9, 9), TEXTS, TEXTS.map(lambda t: f"{t}\n- x: {t}")
)
KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(st.lists(st.dictionaries(KEYS, st.one_of(VALUES, st.lists(VALUES, max_size=3), st.dictionaries(KEYS, VALUES)))))
def test_configs_read_by_sections_are_those_read_whole(contents: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folders = []
        for number, content in enumerate(contents):
            folder = Path(root) / str(number)
            folder.mkdir()
            (folder / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
            folders.append(folder)
        configs = Configs()
        for folder in folders:
            found = configs.read((folder / "config.yaml").read_text(encoding="utf-8"), folder)
            expected = dict(flat(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))))
            assert {key: found[key] for key in expected} == expected


def test_keys_that_came_later_have_their_defaults(folders: list[Path]) -> None:
    path = folders[0] / "config.yaml"
    content = yaml.safe_load(path.read_text())
    del content["trainer"]["accumulate"], content["metrics"]
    path.write_text(yaml.safe_dump(content))
    assert not {"trainer.accumulate", "metrics.auc_threshold"} & set(compare(folders[0].parent).columns)


def test_damaged_files_are_named(folders: list[Path]) -> None:
    (folders[0] / "config.yaml").write_text("a: [")
    with pytest.raises(ReportError, match=rf"{folders[0].name}/config.yaml cannot be read"):
        compare(folders[0].parent)


def test_words() -> None:
    assert words(["a,b", "c", "a"]) == ("a", "b", "c")
    assert words(None) == ()


def test_a_list_of_taps_is_one_key(tmp_path: Path) -> None:
    folders = write_runs(make_experiment(tmp_path, {"probe.taps": [ATTENTION, [ATTENTION, ACTIVATION]]}))
    table = compare(folders[0].parent, Query(group=("taps",), sort="taps"))
    assert table["taps"].tolist() == sorted([ATTENTION, f"{ATTENTION}+{ACTIVATION}"])
