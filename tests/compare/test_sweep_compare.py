from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import typer
from compare_world import write_runs
from rich.console import Console
from sweep_world import ACTIVATION, ATTENTION, make_experiment, write_cell

from probe_lab import cli
from probe_lab.compare import Query
from probe_lab.compare.difference import difference
from probe_lab.errors import ConfigError, ReportError
from probe_lab.runs import Runs
from probe_lab.sweep import cells, compare, comparison_table

REWARD = "shapes_reward/srcc_within"
PARTS = ("", "/lower", "/upper")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two taps × two seeds; the activation is better by 0.2, and seed 1 by 0.1."""
    root = tmp_path_factory.mktemp("compare")
    grid = {"probe.taps": [ATTENTION, ACTIVATION], "trainer.seed": [0, 1]}
    experiment = make_experiment(root, grid)
    for cell in cells(experiment):
        (experiment.runs_folder / cell.name).mkdir(parents=True)
        better = 0.2 if cell.experiment.probe.taps == [ACTIVATION] else 0.0
        write_cell(cell, experiment.runs_folder / cell.name, better + cell.experiment.trainer.seed / 10)
    (experiment.runs_folder / "unfinished").mkdir()
    return experiment.runs_folder


def test_one_row_per_cell_the_best_first(runs: Path) -> None:
    table = compare(runs)
    assert list(table.columns) == [
        "cell", "model", "step", "taps", "loss", "seed",
        *(f"{name}/srcc_within{part}" for name in ("shapes_reward", "shapes_binding") for part in PARTS),
    ]  # fmt: skip
    assert list(zip(table["taps"], table["seed"], strict=True)) == [
        (ACTIVATION, 1), (ACTIVATION, 0), (ATTENTION, 1), (ATTENTION, 0),
    ]  # fmt: skip
    assert table.loc[0, [f"{REWARD}{part}" for part in PARTS]].tolist() == pytest.approx([0.3, 0.2, 0.4])
    assert len(compare(runs, Query(limit=1))) == 1
    assert set(compare(runs, Query(cells=[table["cell"][2]]))["seed"]) == {1}
    assert list(compare(runs, Query(evaluators=("shapes_binding",))).columns[6:]) == [
        f"shapes_binding/srcc_within{part}" for part in PARTS
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two experiments of the same two cells, in runs folders beside each other."""
    root = tmp_path_factory.mktemp("two")
    cache = {"root": str(root), "name": "shared"}
    made = [make_experiment(root, {"trainer.seed": [0, 1]}, name=name, cache=cache) for name in ("one", "other")]
    return Runs(*(write_runs(experiment)[0].parent for experiment in made))


def test_experiments_stand_side_by_side(two: Runs) -> None:
    table = compare(two)
    assert list(table.columns)[:2] == ["experiment", "cell"]
    assert sorted(zip(table["experiment"], table["seed"], strict=True)) == [
        ("one", 0), ("one", 1), ("other", 0), ("other", 1),
    ]  # fmt: skip
    averaged = compare(two, Query(seeds=True))
    assert sorted(zip(averaged["experiment"], averaged["seeds"], strict=True)) == [("one", 2), ("other", 2)]
    assert compare(two, Query(best=("experiment",)))["experiment"].tolist() == ["one", "other"]
    assert compare(two, Query(group=("experiment",)))["cells"].tolist() == [2, 2]
    alone = compare(two, Query(where='experiment == "other"'))
    pd.testing.assert_frame_equal(alone, compare(two.folders[1]))


def test_an_experiment_without_finished_cells_is_named(two: Runs, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=rf"no cell in {tmp_path} is finished"):
        compare(Runs(*two.folders, tmp_path))


def test_cells_of_two_experiments_are_compared_by_name(two: Runs) -> None:
    name = two.finished()[0].name
    sheet = difference(two, f"one/{name}", f"other/{name}", Query(metrics=("srcc_within",)), resamples=20)
    assert sheet.frame["difference"].tolist() == [0.0, 0.0]
    with pytest.raises(ReportError, match=r"names 2 cells, which differ in experiment"):
        difference(two, name, name, Query())


def test_folders_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    one, other, third = tmp_path / "a" / "runs", tmp_path / "b" / "runs", tmp_path / "third"
    assert Runs(one, other, third, one).labels == {one: str(one), other: str(other), third: "third"}


def test_the_verb_takes_names_and_folders(two: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two.folders
    (tmp_path / "one.yaml").write_text(f"name: one\nbackbone: tiny-sd\nruns: {one.parent}\n")
    monkeypatch.chdir(one.parent)
    for names in ([f"{tmp_path}/one.yaml", "./other"], [str(one), f"{other}"]):
        cli.app(["compare", *names, "workers=1", "--csv", str(tmp_path / "table.csv")], standalone_mode=False)
        assert set(pd.read_csv(tmp_path / "table.csv")["experiment"]) == {"one", "other"}
    with pytest.raises(typer.BadParameter, match="no experiment is named"):
        cli.app(["compare", "workers=1"], standalone_mode=False)


def test_a_loss_is_that_of_probes_and_not_of_their_baselines(tmp_path: Path) -> None:
    grid = [{"probe.loss": ["mse", "listwise"]}, {"probe.model": ["linear", "prompt_only", "shuffled_labels"]}]
    runs_folder = write_runs(make_experiment(tmp_path, grid, probe={"taps": [ATTENTION]}))[0].parent

    def models(where: str) -> list[str]:
        return sorted(compare(runs_folder, Query(where=where))["model"])

    assert models('loss == "listwise"') == models('loss == "mse"') == models('"listwise" in loss') == ["cnn"]
    assert models('loss in ["mse", "listwise"]') == ["cnn", "cnn"]
    assert models('loss == "listwise" and model != "linear"') == ["cnn", "shuffled_labels"]
    assert models("loss == None") == ["linear", "prompt_only", "shuffled_labels"]
    assert models('loss != "mse"') == ["cnn", "linear", "prompt_only", "shuffled_labels"]
    shown = compare(runs_folder).set_index("model")["loss"]
    assert shown[["linear", "prompt_only"]].isna().all()
    assert shown["shuffled_labels"] == "listwise"
    grouped = compare(runs_folder, Query(group=("loss",))).set_index("loss")["cells"]
    assert grouped[["mse", "listwise"]].tolist() == [1, 1]
    best = compare(runs_folder, Query(best=("loss",)))
    assert best.loc[best["loss"].isin(["mse", "listwise"]), "model"].unique().tolist()[0] == "cnn"


def test_both_sides_of_a_difference_know_what_the_filter_names(tmp_path: Path) -> None:
    grid = [{"probe.loss": ["mse", "listwise"]}, {"probe.model": ["noisy_latent"], "probe.loss": ["mse", "listwise"]}]
    runs_folder = write_runs(make_experiment(tmp_path, grid, probe={"taps": [ATTENTION]}))[0].parent
    sides = 'loss == "mse"', 'loss == "listwise"'
    of = [difference(runs_folder, *sides, Query(where=where), resamples=10).notes[0] for where in _FILTERS]
    assert ["noisy_latent" in note for note in of] == [False, False, True]


_FILTERS = ("", '"attention" in taps', 'model == "noisy_latent"')


def test_seeds_are_averaged(runs: Path) -> None:
    table = compare(runs, Query(seeds=True))
    assert table["taps"].tolist() == [ACTIVATION, ATTENTION]
    assert table["seeds"].tolist() == [2, 2]
    assert table[REWARD].tolist() == pytest.approx([0.25, 0.05])
    assert table[f"{REWARD}/upper"].tolist() == pytest.approx([0.35, 0.15])
    assert "seed" not in table


def test_keys_that_differ_become_columns(runs: Path, tmp_path: Path) -> None:
    """Cells of earlier commands are compared too, and what was changed between the commands is shown."""
    for width, runs_name in ((8, "a"), (16, "b")):
        experiment = make_experiment(
            tmp_path, probe={"taps": [ATTENTION], "width": width}, reports=runs_name, workers=width
        )
        (cell,) = cells(experiment)
        (experiment.runs_folder / cell.name).mkdir(parents=True)
        write_cell(cell, experiment.runs_folder / cell.name, width / 100)
    table = compare(experiment.runs_folder, Query(seeds=True))
    assert table["probe.width"].tolist() == [16, 8]
    assert table.columns[:6].tolist() == ["model", "step", "taps", "loss", "probe.width", "seeds"]


def test_undefined_values_are_a_dash_and_intervals_are_shown(runs: Path) -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(comparison_table(runs))
    assert "0.300 [0.200, 0.400]" in shown.get()
    assert shown.get().index(ACTIVATION) < shown.get().index(ATTENTION)
    with console.capture() as shown:
        console.print(comparison_table(runs, Query(metrics=("top1",))))
    assert " - " in shown.get()


def test_what_is_not_there_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="did you mean 'srcc_within'"):
        compare(runs, Query(metrics=("srcc_witin",)))
    with pytest.raises(ReportError, match="did you mean 'shapes_binding'"):
        compare(runs, Query(evaluators=("shapes_bindin",)))
    with pytest.raises(ReportError, match="did you mean 'test'"):
        compare(runs, Query(splits=("tets",)))
    with pytest.raises(ReportError, match="did you mean 'shapes_binding/srcc_within'"):
        compare(runs, Query(sort="shapes_binding/srcc_witin"))
    with pytest.raises(ReportError, match=r"none of the 4 finished cells .* matches 'step == 7'"):
        compare(runs, Query(where="step == 7"))
    with pytest.raises(ConfigError, match="did you mean 'loss'"):
        compare(runs, Query(group=("los",)))
    with pytest.raises(ReportError, match="give one of them"):
        compare(runs, Query(group=("loss",), best=("step",)))
    with pytest.raises(ReportError, match="probe-lab sweep"):
        compare(tmp_path)


def test_it_takes_a_form_that_fits_the_terminal(runs: Path) -> None:
    table = comparison_table(runs)
    for width, lines in ((200, 4), (130, 4), (80, 8), (60, 8)):
        console = Console(width=width)
        with console.capture() as shown:
            console.print(table)
        text = shown.get()
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert sum("[" in line for line in text.splitlines()) == lines
        assert "0.300 [0.200, 0.400]" in text


def test_taps_stand_below_each_other_before_the_table_is_turned(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, probe={"taps": [ATTENTION, ACTIVATION]})
    (cell,) = cells(experiment)
    (experiment.runs_folder / cell.name).mkdir(parents=True)
    write_cell(cell, experiment.runs_folder / cell.name, 0.1)
    shown = {}
    for width in (200, 130, 80):
        console = Console(width=width)
        with console.capture() as captured:
            console.print(comparison_table(experiment.runs_folder))
        shown[width] = captured.get()
    assert f"{ATTENTION}+{ACTIVATION}" in shown[200]
    assert f"{ATTENTION}+ " in shown[130]
    assert [text.split()[-1] for text in (shown[130].splitlines()[2], shown[80].splitlines()[1])] == ["┃", "estimate"]
    assert all(tap in shown[80] for tap in (ATTENTION, ACTIVATION))
