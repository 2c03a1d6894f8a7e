"""The finished page: complete, self-contained, with the numbers of the parquet; and never a half one."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe_lab.errors import ReportError
from probe_lab.report import build, build_report
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.html_page import MARK
from probe_lab.report.sections import activations, attention
from probe_lab.runs.table import write_results

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVALUATORS = ("shapes_reward", "shapes_binding")


class Page(HTMLParser):
    """Tags, links and text of a page; fails on tags that are closed in another order than they were
    opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.resources: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(values)
        if tag == "a":
            self.links.append(values["href"])
        elif "src" in values or "href" in values:
            self.resources.append(values.get("src", values.get("href", "")))
        if "id" in values:
            self.ids.append(values["id"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _write(simulated: Any, out: Path, **options: Any) -> Page:
    arguments = {"runs": simulated.runs, "cache": None, "out": out, "title": "t", "evaluators": EVALUATORS}
    return Page(build_report(**(arguments | options)).read_text())


def test_every_figure_is_there_in_both_forms_and_small(report: Path) -> None:
    families = {"curve_shapes_reward", "curve_shapes_binding", "heatmap", "losses", "scatter", "attention"}
    families |= {"selection_shapes_reward", "selection_shapes_binding", "activations", "agreement"}
    families |= {"tap_guide", "complexity", "reliability", "transfer_evaluator"}
    families |= {"which_loss_shapes_reward", "which_loss_shapes_binding"}
    files = {path.name: path.stat().st_size for path in (report / "figures").iterdir()}
    assert set(files) == {f"{name}{suffix}" for name in families for suffix in (".pdf", ".png")}
    assert min(files.values()) > 5_000
    assert sum(files.values()) < 3_000_000
    for path in (report / "figures").glob("*.pdf"):
        assert b"CreationDate" not in path.read_bytes()


def test_page_is_well_formed_and_needs_no_network(report: Path) -> None:
    page = Page((report / "index.html").read_text())
    assert len(page.images) == 16
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(len(image["alt"]) > 40 for image in page.images)
    assert all(resource.startswith("data:") for resource in page.resources)
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (report / link).is_file(), link
    assert "A <quick> look" in page.text


def test_page_explains_every_figure_and_states_how_the_best_was_chosen(report: Path) -> None:
    page = Page((report / "index.html").read_text())
    assert page.text.count("Suspicious would be") == 13
    assert "chosen on the validation split" in page.text
    assert "Not comparable, for orientation only" in page.text
    assert "No cell failed." in page.text
    # The cells of this world have no weights, and too few captions that the shapes world could have drawn.
    missing = [part.split(":")[0] for part in page.text.split("Not shown: ")[1:]]
    assert missing == [
        "No model was trained on several numbers of captions",
        "Ways of selecting were not measured",
        "Number of objects",
        "Steps of up 1.0 attn",
        "Taps at step 5",
        "Backbones",
    ]
    assert "loss: listwise" in page.text  # the configuration of the best probe


def test_another_experiment_stands_beside(
    simulated: Any, runs_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FAMILIES", ())
    page = _write(simulated, tmp_path / "report", title="first", others={"second": runs_copy})
    assert "Side by side" in page.text
    assert (tmp_path / "report" / "figures" / "beside.pdf").stat().st_size > 5_000
    with (tmp_path / "report" / "tables" / "beside.csv").open() as file:
        rows = {row[""]: row for row in csv.DictReader(file)}
    linear = simulated_value(simulated, "linear", "shapes_reward")
    assert float(rows["linear probe, step 5"]["first"]) == pytest.approx(linear)
    assert rows["linear probe, step 5"]["first"] == rows["linear probe, step 5"]["second"]  # a copy of the same runs
    assert [name for name in rows if name.startswith("probe")] == [f"probe, step {step}" for step in (1, 3, 5, 8)]


@dataclass(frozen=True)
class Halved:
    """Runs of which halving stopped one cell and patience another one, and their report without the cache."""

    runs: Path
    out: Path
    page: Page
    halved: str
    patient: str


@pytest.fixture(scope="module")
def halved(simulated: Any, tmp_path_factory: pytest.TempPathFactory) -> Halved:
    """However good the numbers of these cells look."""
    folder = tmp_path_factory.mktemp("halved")
    runs = Path(shutil.copytree(simulated.runs, folder / "runs" / "quick"))
    cells = load_results(runs).cells.query("model == 'cnn' and loss == 'listwise' and step == 5 and seed == 1")["cell"]
    halved, patient = cells.iloc[0], cells.iloc[1]
    for cell, by in ((halved, "halving"), (patient, "patience")):
        path = runs / cell / "metrics.json"
        content = json.loads(path.read_text())
        for row in content["metrics"]:
            row["estimate"] = 0.99 if by == "halving" else row["estimate"]
        path.write_text(json.dumps(content | {"stopped": {"by": by, "epochs": 2}}))
    table = pd.read_parquet(runs / "results.parquet")
    write_results(runs, table.assign(estimate=table["estimate"].where(table["cell"] != halved, 0.99)))
    page = _write(simulated, folder / "report", runs=runs)
    return Halved(runs, folder / "report", page, halved, patient)


def test_cells_that_halving_stopped_are_listed_and_count_nowhere_else(simulated: Any, halved: Halved) -> None:
    """A training that ended by patience is whole."""
    before, results = load_results(simulated.runs), load_results(halved.runs)
    variants = {cell: variant for variant, cells in before.variants.items() for cell in cells.values()}
    assert list(results.seeds(variants[halved.halved])) == [0]
    assert list(results.seeds(variants[halved.patient])) == [0, 1]
    for split in ("val", "test"):
        value = results.value(variants[halved.halved], "shapes_reward", "srcc_within", split)
        assert value is not None
        assert value.estimate < 0.9
    assert "Successive halving stopped 1 of them before the last epoch" in halved.page.text
    assert halved.page.text.count("Left out is the one cell that successive halving stopped") == 3
    with (halved.out / "tables" / "cells.csv").open() as file:
        ended = {row["cell"]: row["stopped"] for row in csv.DictReader(file)}
    assert len(ended) == len(before.cells)
    assert {cell: text for cell, text in ended.items() if text} == {
        halved.halved: "halving, epoch 2",
        halved.patient: "patience, epoch 2",
    }


def test_results_of_another_version_are_refused(simulated: Any, runs_copy: Path, tmp_path: Path) -> None:
    path = runs_copy / "results.parquet"
    pd.read_parquet(path).to_parquet(path)
    with pytest.raises(ReportError, match=r"results\.parquet is of version none and this is version 1: run `probe-lab"):
        _write(simulated, tmp_path / "report", runs=runs_copy)
    assert not (tmp_path / "report").exists()


def simulated_value(simulated: Any, model: str, evaluator: str) -> float:
    rows = pd.read_parquet(simulated.runs / "results.parquet").query(
        f"model == '{model}' and evaluator == '{evaluator}' and metric == 'srcc_within' and split == 'test'"
    )
    return float(rows["estimate"].mean())


def test_tables_hold_the_numbers_of_the_parquet(report: Path, simulated: Any) -> None:
    results = pd.read_parquet(simulated.runs / "results.parquet")
    with (report / "tables" / "headline_shapes_binding.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    linear = results[
        (results["model"] == "linear")
        & (results["evaluator"] == "shapes_binding")
        & (results["metric"] == "srcc_within")
    ].iloc[0]
    row = next(row for name, row in rows.items() if name.startswith("linear probe"))
    for column, name in (("", "estimate"), (" lower", "lower"), (" upper", "upper")):
        assert float(row[f"SRCC within prompts{column}"]) == pytest.approx(linear[name])
    best = next(row for name, row in rows.items() if name.startswith("best"))
    assert float(row["best minus this (SRCC within)"]) == pytest.approx(
        float(best["SRCC within prompts"]) - float(row["SRCC within prompts"])
    )
    assert len(rows) == 7
    with (report / "tables" / "cells.csv").open() as file:
        cells = {row["cell"]: row for row in csv.DictReader(file)}
    assert set(cells) == set(results["cell"])
    assert float(cells[linear["cell"]]["shapes binding"]) == pytest.approx(linear["estimate"])


def test_tables_come_in_three_forms(report: Path) -> None:
    names = {path.stem for path in (report / "tables").iterdir()}
    assert {"headline_shapes_reward", "paper_diffusion_probe", "paper_probe_select", "cells"} <= names
    for name in names:
        for suffix in (".md", ".tex", ".csv"):
            assert (report / "tables" / f"{name}{suffix}").stat().st_size > 50


def test_what_is_missing_is_stated(halved: Halved) -> None:
    assert halved.page.text.count("Not shown: The report was made without the cache") == 2
    assert "Not shown: Score over compute" in halved.page.text
    assert not (halved.out / "figures" / "attention.png").exists()


def test_the_first_sentence_has_real_minus_signs(
    simulated: Any, runs_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FAMILIES", ())
    for path in runs_copy.glob("*/predictions.parquet"):
        table = pd.read_parquet(path)
        table.assign(prediction=-table["prediction"]).to_parquet(path, index=False)
    page = _write(simulated, tmp_path / "r", runs=runs_copy)
    assert re.search(r"with SRCC −0\.\d\d \[−0\.\d\d, −0\.\d\d\] by shapes reward", page.text)


def test_the_first_sentence_says_what_a_choice_of_seeds_can_win(simulated: Any, report: Path) -> None:
    table = pd.read_parquet(next(simulated.runs.glob("cnn-5*-0")) / "predictions.parquet")
    table = table[(table["split"] == "test") & (table["evaluator"] == "shapes_reward")]
    groups = table.groupby("prompt_id")["target"]
    within = groups.var().mean()
    between = groups.mean().var() - within / simulated.world.seeds
    best = (groups.max() - groups.mean()).mean()
    lead = (report / "index.html").read_text().partition('<p class="lead">')[2]
    share = 100 * within / (within + between)
    assert re.match(rf"{share:.0f} % \[\d\d, \d\d\] of the variance of shapes reward", lead)
    assert f"the best of {simulated.world.seeds} is {best:.3f} [" in lead


def test_failures_are_listed(simulated: Any, runs_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FAMILIES", ())
    failed = [{"cell": "cnn-99", "error": "loss <nan> at epoch 3"}]
    (runs_copy / "failures.json").write_text(json.dumps(failed))
    page = _write(simulated, tmp_path / "r", runs=runs_copy)
    assert "cnn-99" in page.text
    assert "loss <nan> at epoch 3" in page.text
    assert "1 failed" in page.text


def test_a_failure_leaves_the_old_report(simulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FAMILIES", ())
    out = tmp_path / "r"
    _write(simulated, out)
    (out / "index.html").write_text(f"{MARK} old")

    def broken(*arguments: object) -> str:
        raise RuntimeError("no page today")

    monkeypatch.setattr(build, "page", broken)
    with pytest.raises(RuntimeError, match="no page today"):
        _write(simulated, out)
    assert (out / "index.html").read_text() == f"{MARK} old"
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


SECTIONS = """
from matplotlib.figure import Figure
from probe_lab.report import Drawing, Section, Table

def given(material):
    table = Table("given", "A table", "", ("evaluator",), tuple((name,) for name in material.choice.evaluators))
    return Section("given", "A <section>", "Why.", (Drawing("given", "What it shows.", Figure()),), tables=(table,))

def broken(material):
    return material.nothing

def nothing(material):
    return None
"""


def test_sections_of_ones_own_follow_ours(simulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given_sections.py").write_text(SECTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(build, "FAMILIES", (build.guide.section,))
    out = tmp_path / "report"
    page = _write(simulated, out, sections=["given_sections:given"])
    assert page.ids.index("guide") < page.ids.index("given")
    assert "A <section>" in page.words
    assert (out / "figures" / "given.pdf").is_file()
    assert (out / "tables" / "given.csv").read_text().split() == ["evaluator", *EVALUATORS]
    for name, message in {
        "broken": "the section 'given_sections:broken' of 'report_sections' failed: AttributeError: 'Material' object",
        "nothing": "the section 'given_sections:nothing' gave a NoneType: return a Section",
    }.items():
        with pytest.raises(ReportError, match=message):
            _write(simulated, out, sections=[f"given_sections:{name}"])
    assert (out / "figures" / "given.pdf").is_file()


def test_a_report_is_replaced_whole(simulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FAMILIES", ())
    out = tmp_path / "r"
    _write(simulated, out)
    (out / "figures" / "from_last_time.png").write_text("x")
    seen: list[tuple[int, int]] = []
    _write(simulated, out, on_progress=lambda done, total: seen.append((done, total)))
    assert not (out / "figures" / "from_last_time.png").exists()
    assert seen[-1] == (2, 2)
    assert seen == sorted(seen)


def test_a_folder_that_is_no_report_is_not_touched(simulated: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ReportError, match="is no report"):
        _write(simulated, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


FROM_CACHE = (attention.section, activations.section)


def _left_out(simulated: Any, cache: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """The page's text and what is told of a report with two sections that need the cache."""
    monkeypatch.setattr(build, "FAMILIES", FROM_CACHE)
    notes: list[str] = []
    return _write(simulated, out, cache=cache, on_note=notes.append).text, notes


@pytest.mark.parametrize("damage", ["gone", "no manifest"])
def test_without_its_cache_a_report_says_what_it_leaves_out(
    simulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = tmp_path / "cache"
    if damage == "no manifest":
        shutil.copytree(simulated.cache, cache)
        (cache / "manifest.json").write_text("{")
    text, notes = _left_out(simulated, cache, tmp_path / "r", monkeypatch)
    (note,) = notes
    assert note.startswith("left out: Attention of the best and worst seed, Activations over steps, ")
    assert str(cache) in note
    assert note[1:] in text
    assert (tmp_path / "r" / "tables" / "cells.csv").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("name", "change", "section"),
    [
        ("images/00000.parquet", Path.unlink, "Activations over steps"),
        ("images/00000.parquet", _cut, "Attention of the best and worst seed"),
        ("shards/00000.safetensors", _cut, "Activations over steps"),
        ("scores/shapes_reward.parquet", _cut, "How the evaluators agree"),
        ("shards/00000.json", Path.unlink, "How the evaluators agree"),
    ],
)
def test_a_damaged_file_of_the_cache_is_named_and_the_rest_is_shown(
    simulated: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[Path], None],
    section: str,
) -> None:
    cache = Path(shutil.copytree(simulated.cache, tmp_path / "cache"))
    change(cache / name)
    text, notes = _left_out(simulated, cache, tmp_path / "r", monkeypatch)
    (note,) = notes
    assert note.startswith("left out: ")
    assert section in note
    assert Path(name).name in note or (name.endswith(".json") and str(cache) in note)
    assert note[1:] in text
    assert "Not shown: " in text


def test_the_cache_of_another_experiment_is_refused(simulated: Any, runs_copy: Path, tmp_path: Path) -> None:
    for path in runs_copy.glob("cnn-5-*/predictions.parquet"):
        frame = pd.read_parquet(path)
        frame["seed"] += 1
        frame.to_parquet(path)
    with pytest.raises(ReportError, match="is not the one"):
        _write(simulated, tmp_path / "r", runs=runs_copy, cache=simulated.cache)
    assert not (tmp_path / "r").exists()
