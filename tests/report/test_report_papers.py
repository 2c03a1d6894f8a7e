"""Tables and figures of the papers: their numbers as the reference has them, ours as the results have them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from probe_lab.config.schema import EXHIBITS as NAMES
from probe_lab.errors import ReportError
from probe_lab.report.analysis.chosen import best_on_validation
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.results import Variant
from probe_lab.report.papers import EXHIBITS, ablations, build_exhibit
from probe_lab.report.papers.shown import cost
from probe_lab.report.sections.paper import PUBLISHED

EVALUATORS = ("shapes_reward", "shapes_binding")
LABELS = ("shapes reward", "shapes binding")


@pytest.fixture(scope="module")
def papers() -> dict[str, Any]:
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def render(simulated: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``render(exhibit)``: the folder of its page, made once."""
    out = tmp_path_factory.mktemp("exhibits")

    def of(exhibit: str) -> Path:
        if not (out / exhibit).exists():
            _build(exhibit, simulated.runs, out / exhibit)
        return out / exhibit

    return of


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_config_names_the_exhibits_that_there_are() -> None:
    assert set(NAMES) == set(EXHIBITS)


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_an_exhibit_has_its_page_files_and_caution(render: Any, exhibit: str) -> None:
    folder = render(exhibit)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("not comparable") >= 2  # on the page, and with what is taken from it
    assert f'id="{exhibit}"' in page
    drawn = {path.suffix for path in (folder / "figures").iterdir()}
    assert drawn == ({".pdf", ".png"} if "_figure_" in exhibit else set())
    tables = {path.name for path in (folder / "tables").iterdir()}
    if "_table_" in exhibit:
        assert {
            f"{exhibit}{half}{suffix}" for half in ("", "_published") for suffix in (".csv", ".md", ".tex")
        } <= tables
    for name in tables:
        assert name in page  # linked


def test_prediction_has_the_published_rows_and_ours(render: Any, papers: dict[str, Any], simulated: Any) -> None:
    folder = render("dp_table_prediction")
    theirs = rows(folder, "dp_table_prediction_published")
    expected = papers["diffusion_probe"]["prediction"]
    assert [(r["model"], int(r["step"]), float(r["SRCC"]), float(r["AUC-ROC"])) for r in theirs] == [
        (r["model"], r["step"], r["srcc"], r["auc_roc"]) for r in expected
    ]
    ours = rows(folder, "dp_table_prediction")
    assert [int(r["step"]) for r in ours] == list(simulated.world.steps)
    results = load_results(simulated.runs)
    of_step = results.means[
        (results.means["step"] == 8)
        & (results.means["metric"] == "srcc")
        & (results.means["split"] == "test")
        & (results.means["evaluator"] == "shapes_reward")
    ]
    assert any(np.isclose(float(ours[-1]["SRCC"]), value) for value in of_step["estimate"])
    assert float(ours[-1]["SRCC lower"]) < float(ours[-1]["SRCC"]) < float(ours[-1]["SRCC upper"])


def test_metrics_has_a_row_per_evaluator(render: Any) -> None:
    folder = render("dp_table_metrics")
    assert [r["evaluator"] for r in rows(folder, "dp_table_metrics")] == list(LABELS)
    assert {r["model"] for r in rows(folder, "dp_table_metrics_published")} == {"SDXL", "FLUX", "Qwen-Image"}


@pytest.mark.parametrize("exhibit", ["dp_table_seed_selection", "dp_table_prompt_optimization"])
def test_downstream_tables_are_told_apart(render: Any, papers: dict[str, Any], exhibit: str) -> None:
    theirs = rows(render(exhibit), f"{exhibit}_published")
    wanted = [r for r in papers["diffusion_probe"]["downstream"] if exhibit.endswith(r["task"])]
    assert [(r["method"], float(r["CLIPScore"])) for r in theirs] == [(r["method"], r["clip_score"]) for r in wanted]
    random, probe, oracle = rows(render(exhibit), exhibit)
    assert float(random["shapes reward"]) < float(probe["shapes reward"]) < float(oracle["shapes reward"])


def test_selection_scores_every_choice_by_every_evaluator(render: Any, simulated: Any) -> None:
    table = {r["chosen by"]: r for r in rows(render("ps_table_selection"), "ps_table_selection")}
    assert list(table) == ["baseline", *LABELS, "oracle of each column"]
    results = load_results(simulated.runs)
    cell = next(iter(results.cells["cell"]))
    mean = results.predictions(cell, "shapes_binding").groupby("prompt_id")["target"].mean().mean()
    assert float(table["baseline"]["shapes binding"]) == pytest.approx(mean)
    for label in LABELS:
        own, other = float(table[label][label]), float(table["baseline"][label])
        assert other < own < float(table["oracle of each column"][label])
    other_way = [float(table[by]["shapes binding"]) for by in LABELS]
    assert other_way[0] != other_way[1]  # a row chooses by its own prediction


def test_high_quality_shares_start_at_a_fifth(render: Any) -> None:
    for row in rows(render("dp_table_grpo"), "dp_table_grpo"):
        assert float(row["all images"]) == pytest.approx(0.2, abs=0.02)
        assert float(row["factor"]) == pytest.approx(float(row["chosen"]) / float(row["all images"]))
        assert float(row["factor"]) > 1


def test_losses_are_in_rows(render: Any) -> None:
    table = rows(render("ps_table_losses"), "ps_table_losses")
    assert [r["objective"] for r in table] == ["MSE", "listwise", "listwise + InfoNCE"]
    assert [r["λ"] for r in table] == ["", "", "10.0"]


def test_cost_follows_the_formula(render: Any) -> None:
    assert cost(0.2, 1, 5) == pytest.approx(0.36)
    (published,) = rows(render("ps_figure_cost"), "ps_figure_cost_published")
    assert float(published["cost"]) == pytest.approx(cost(0.2, 1, 5))
    ours = rows(render("ps_figure_cost"), "ps_figure_cost")
    assert [float(r["cost"]) for r in ours] == pytest.approx([cost(step / 25, 1, 5) for step in (1, 3, 5, 8)])


def test_a_lookahead_costs_a_call_more(runs_copy: Path, write_scalars: Any) -> None:
    write_scalars(runs_copy, "cnn-5-", ["lookahead:shapes_reward"])
    _build("ps_figure_cost", runs_copy, runs_copy.parent / "out")
    ours = {int(r["step"]): float(r["cost"]) for r in rows(runs_copy.parent / "out", "ps_figure_cost")}
    assert ours == pytest.approx({step: cost(step / 25, 1, 5) + (1 / 25 if step == 5 else 0) for step in (1, 3, 5, 8)})


def test_a_block_is_shown_by_the_probe_that_validates_best(
    runs_copy: Path, edit_metrics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_it(row: dict[str, Any]) -> None:
        if row["metric"] == "srcc_within":
            row["estimate"] = 0.99

    edit_metrics(runs_copy, "cnn-5-up_blocks.1.attentions.0_attention-mse-", "val", raise_it)
    drawn: dict[str, str] = {}
    monkeypatch.setattr(ablations, "_dots", lambda ax, shown, variants, *rest: drawn.update(_losses(variants)))
    _build("ps_figure_blocks", runs_copy, runs_copy.parent / "out")
    results = load_results(runs_copy)
    best = [best_on_validation(results, ["cnn"], 5, EVALUATORS[0], tap) for tap in drawn]
    assert drawn == _losses(best)
    assert drawn["up_blocks.1.attentions.0/attention"] == "mse"


def _losses(variants: Sequence[Variant | None]) -> dict[str, str]:
    return {variant.taps: variant.loss for variant in variants if variant}


def _build(exhibit: str, runs: Path, out: Path) -> None:
    build_exhibit(
        exhibit,
        runs=runs,
        out=out,
        title=exhibit,
        evaluators=EVALUATORS,
        primary_step=5,
        model="tiny-sd",
        steps=25,
    )


@pytest.mark.parametrize(
    "exhibit", ["dp_table_seed_selection", "dp_table_grpo", "ps_table_selection", "ps_figure_gain"]
)
def test_one_image_per_prompt_leaves_nothing_to_choose(runs_copy: Path, tmp_path: Path, exhibit: str) -> None:
    """Diffusion Probe's own setting."""
    for path in runs_copy.glob("*/predictions.parquet"):
        table = pd.read_parquet(path)
        table.drop_duplicates(["prompt_id", "evaluator", "split"]).to_parquet(path, index=False)
    _build(exhibit, runs_copy, tmp_path / "out")
    if exhibit == "dp_table_seed_selection":
        random, probe, oracle = rows(tmp_path / "out", exhibit)
        assert random["shapes reward"] == probe["shapes reward"] == oracle["shapes reward"]


def test_an_unknown_exhibit_is_named(simulated: Any, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="'dp_table_predictoin': did you mean 'dp_table_prediction'"):
        build_exhibit(
            "dp_table_predictoin",
            runs=simulated.runs,
            out=tmp_path / "out",
            title="x",
            evaluators=(),
            primary_step=5,
            model="x",
            steps=25,
        )
    assert not (tmp_path / "out").exists()
