"""`probe-lab select` on cells of the smallest experiment: files, schedules, budgets, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from probe_lab.cli import app
from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import ProbeLabError, SelectError
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation.generate import generate
from probe_lab.generation.prompts import sample_seed
from probe_lab.runs.files import METRICS, sealed
from probe_lab.selection.budget import calls_of
from probe_lab.selection.candidates import Candidate, PromptCandidates, file_names
from probe_lab.selection.contact_sheet import contact_sheet, labels_of, score_text, title_of
from probe_lab.selection.live_view import RemainingCandidates, picture
from probe_lab.selection.outcome import _sameness, kept_table, lines_of, worth
from probe_lab.selection.setup import setup_of
from probe_lab.selection.short_forms import overrides_of, read_by, read_schedule
from probe_lab.selection.trained_cells import at_other_steps, best_cell

PROMPT = "a red circle left of a blue square"
SWEEP = "sweep=[{probe.step: [2, 4], probe.taps: [[x0]]}, {probe.model: [prompt_only, x0_preview]}]"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of an experiment whose cells are trained: a cnn at steps 2 and 4, and two baselines."""
    folder = tmp_path_factory.mktemp("selected")
    places = [f"cache.root={folder}/cache", f"runs={folder}/runs", "tracking.uri=", "workers=1"]
    small = ["sampling.height=32", "sampling.width=32", "prompts.count=16", "data.batch_prompts=4"]
    made = [*places, *small, "probe.text=none", SWEEP]
    experiment = load_experiment("smoke", made)
    generate(experiment, lambda done, total: None, lambda plan: None)
    score_cache(experiment.cache_folder, experiment.evaluators)
    # A process of its own: workers are forked, and generating has left threads in this one.
    commands.probe_lab("sweep", "smoke", *made, cwd=Path.cwd()).check_returncode()
    return made


@pytest.fixture
def experiment(keys: list[str]) -> Experiment:
    return load_experiment("smoke", keys)


def select(keys: list[str], *arguments: str) -> None:
    assert not app(["select", "smoke", *keys, "--prompt", PROMPT, *arguments], standalone_mode=False)


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "selection.json").read_text())
    return found


def test_everything_that_a_selection_leaves(
    keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = "a green cross"
    select(keys, "--prompt", second, "-n", "4", "-k", "2", "--score", "--all", "--seed", "7", "-o", str(tmp_path))
    found = record_of(tmp_path)
    assert [row["prompt"] for row in found["prompts"]] == [PROMPT, second]
    assert (found["denoiser_calls"], found["denoiser_calls_of_all"]) == (2 * (4 * 2 + 2 * 6), 2 * 4 * 8)
    assert found["largest_difference"] <= 1
    assert found["probes"][0]["step"] == 2
    assert {"torch", "diffusers", "probe_lab"} <= set(found["versions"])
    assert all(found["seconds"][part] > 0 for part in ("load", "select", "all", "score"))
    for row in found["prompts"]:
        candidates = row["candidates"]
        assert sorted(one["candidate"] for one in candidates) == [0, 1, 2, 3]
        assert [one["kept"] for one in candidates] == [True, True, False, False]
        predicted = [one["predicted"]["shapes_reward"] for one in candidates]
        assert predicted == sorted(predicted, reverse=True)
        assert [one["pruned_at_step"] for one in candidates] == [None, None, 2, 2]
        for one in candidates:
            assert set(one["true"]) == {"shapes_reward", "shapes_binding"}
            assert Image.open(tmp_path / one["image"]).size == (32, 32)
            assert str(one["seed"]) in one["image"]
            assert one["image"].startswith("pruned/") is not one["kept"]
    assert found["worth"]["shapes_reward"]["best"] >= found["worth"]["shapes_reward"]["kept"]
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > 4 * 150
    assert height > 2 * 150
    told = capsys.readouterr()
    assert "keep 2 of 4 after step 2 of 8, step02-cnn" in told.out
    assert "40 denoiser calls of 64 for all candidates (62%)" in told.out
    assert told.err.count("select: step 2 of 8") == 2
    assert "pruned " in told.err
    assert not list(tmp_path.rglob(".*"))
    # Another selection in this folder takes its place.
    select(keys, "-n", "3", "--seed", "8", "-o", str(tmp_path))
    (row,) = record_of(tmp_path)["prompts"]
    assert [path.name for path in tmp_path.rglob("*.png") if path.name != "sheet.png"] == [
        row["candidates"][0]["image"]
    ]


def test_what_no_probe_predicted_is_null_in_the_record(keys: list[str], tmp_path: Path) -> None:
    more = ["evaluators=[shapes_reward,shapes_binding]", "--schedule", "2:3,4:1", "--by", "shapes_reward"]
    select(keys, *more, "-n", "4", "--probe", "preview:shapes_reward", "--probe", "step04-cnn", "-o", str(tmp_path))
    text = (tmp_path / "selection.json").read_text()
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    (row,) = found["prompts"]
    lost = [one for one in row["candidates"] if one["pruned_at_step"] == 2]
    assert [one["predicted"]["shapes_binding"] for one in lost] == [None]


def test_a_difference_is_not_called_the_same() -> None:
    assert "the same" in _sameness(0)
    assert "within 2 of 255" in _sameness(2)
    assert "the same" not in _sameness(140)
    assert "NOT" in _sameness(140)


def test_the_seeds_are_those_of_generate(keys: list[str], experiment: Experiment, tmp_path: Path) -> None:
    """A prompt of the cache gives the images of the cache."""
    from probe_lab.cache import Cache

    cache = Cache(experiment.cache_folder)
    prompt = cache.samples["prompt"].iloc[0]
    assert not app(
        ["select", "smoke", *keys, "--prompt", prompt, "-n", "4", "-o", str(tmp_path)], standalone_mode=False
    )
    (row,) = record_of(tmp_path)["prompts"]
    best = row["candidates"][0]
    sample = cache.samples.iloc[best["candidate"]]
    assert sample["seed"] == best["seed"]
    cached = np.asarray(Image.open(io.BytesIO(cache.image(best["candidate"]))), dtype=int)
    drawn = np.asarray(Image.open(tmp_path / best["image"]), dtype=int)
    assert np.abs(cached - drawn).max() <= 2  # the predicted image is not another seed's
    others = [np.asarray(Image.open(io.BytesIO(cache.image(one))), dtype=int) for one in range(4)]
    assert sum(np.abs(other - drawn).max() <= 2 for other in others) == 1
    assert row["candidates"][1]["image"] is None
    assert row["candidates"][1]["true"] is None


@pytest.mark.parametrize(
    "how", [["--schedule", "2:3,4:1"], ["--budget", "22", "--by", "shapes_binding=1,shapes_reward=0.5"]]
)
def test_schedules_and_budgets(keys: list[str], tmp_path: Path, how: list[str]) -> None:
    select(keys, "-n", "4", *how, "-o", str(tmp_path))
    found = record_of(tmp_path)
    plan = tuple((cut["step"], cut["keep"]) for cut in found["schedule"])
    assert found["denoiser_calls"] == calls_of(plan, 4, 8)
    assert [probe["step"] for probe in found["probes"]] == [step for step, _ in plan]
    if how[0] == "--budget":
        assert found["denoiser_calls"] <= 22
        assert found["planned"]["calls_per_prompt"] == found["denoiser_calls"]
        assert found["by"] == {"shapes_binding": 1.0, "shapes_reward": 0.5}
    else:
        assert plan == ((2, 3), (4, 1))
        assert found["planned"] is None


def test_the_best_cell_is_chosen_on_validation(experiment: Experiment) -> None:
    best = best_cell(experiment, "shapes_reward")
    assert best.name.startswith("step02-cnn-x0")
    assert sorted(at_other_steps(best)) == [2, 4]
    other = shutil.copytree(best, best.with_name(f"{best.name}-better"))
    try:
        for split, expected in (("test", best), ("val", other)):
            content = json.loads((best / METRICS).read_text())
            for entry in content["metrics"]:
                if (entry["metric"], entry["split"]) == ("selection_gain", split):
                    entry["estimate"] = 0.999
            (other / METRICS).write_text(json.dumps(sealed(other, content | {"cell": other.name})))
            assert best_cell(experiment, "shapes_reward") == expected
    finally:
        shutil.rmtree(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--prompt .* is missing"),
        (["--prompt", PROMPT, "-n", "2", "-k", "3"], "'select.keep' is 3 and 'select.candidates' 2"),
        (["--prompt", PROMPT, "--probe", "nowhere"], "has 'nowhere' in its name"),
        (["--prompt", PROMPT, "--probe", "step0"], "'step0' names 4 cells in"),
        (["--prompt", PROMPT, "--probe", "x0_preview"], "keeps no probe, its model needs none"),
        (["--prompt", PROMPT, "--by", "shapes_rewards"], "did you mean 'shapes_reward'"),
        (["--prompt", PROMPT, "--by", "shapes_reward=much"], "the weights are 'shapes_reward=much'"),
        (["--prompt", PROMPT, "--schedule", "2-3"], "the schedule is '2-3': write STEP:KEEP"),
        (
            ["--prompt", PROMPT, "--schedule", "3:2,4:1"],
            r"at all steps of the schedule \(3, 4\): there are some at 2, 4",
        ),
        (["--prompt", PROMPT, "--budget", "3", "-n", "4"], "budget=3 .* the cheapest takes 14, and all of them 32"),
        (["--prompt", PROMPT, "--budget", "50", "-n", "5"], "5 candidates cannot be judged by prompts with 4 seeds"),
        (["--prompt", PROMPT, "--budget", "22", "--by", "pareto"], "spent on one number and by is pareto"),
        (["--prompt", PROMPT, "--budget", "22", "--schedule", "2:1"], "both say when to choose"),
        (["--prompt", PROMPT, "--accept", "0.9"], "'select.accept' in the overrides is no key any more"),
        (["--prompt", PROMPT, "probe.step=3"], "trained at probe.step=3: set it to one of 2, 4"),
        (["--prompt", PROMPT, "backbone=tiny-sd3"], "no probe in .* was trained on tiny-sd3"),
        (["--prompt", PROMPT, "--probe", "step02-cnn", "backbone=tiny-sd3"], "on tiny-sd and the backbone is tiny-sd3"),
        (["--prompt", PROMPT, "sampling.height=96"], "on images of 32×32 and sampling asks for 96×32"),
        (["--prompt", PROMPT, "--probe", "step02-cnn", "--probe", "step04-cnn"], "2 probes and one cut"),
        (
            [
                "--prompt",
                PROMPT,
                "--budget",
                "30",
                "--probe",
                "step02-cnn",
                "--probe",
                "lookahead:shapes_reward",
                "probe.step=2",
            ],
            "a preview is none: give a --schedule",
        ),
        (
            ["--prompt", PROMPT, "--budget", "30", "--probe", "step02-cnn", "--probe", "step02-cnn"],
            "two of these read the same step",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(
    keys: list[str], tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe_lab.selection.select_command.load_pipeline", None)  # calling it would be another error
    with pytest.raises(Exception, match=message) as caught:
        app(["select", "smoke", *keys, *arguments, "-o", str(tmp_path)], standalone_mode=False)
    assert isinstance(caught.value, ProbeLabError) or "BadParameter" in type(caught.value).__name__
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_first(keys: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SelectError, match="choose another folder with -o"):
        select(keys, "-o", str(tmp_path / "file"))


def test_a_prompt_that_is_cut_or_cannot_be_scored(
    keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a red circle and " * 20 + "a blue square"
    with pytest.raises(ProbeLabError, match="cannot score the prompt"):
        app(["select", "smoke", *keys, "--prompt", "a spoon", "--prompt", long, "-n", "2", "--score",
             "-o", str(tmp_path), "sampling.guidance=3"], standalone_mode=False)  # fmt: skip
    told = capsys.readouterr().out
    assert "is longer than the text encoder's 24 tokens: the rest of each is not read" in told
    assert "was trained with another sampling (guidance 2.0, now 3.0)" in told
    found = record_of(tmp_path)  # what was drawn is not lost
    assert [row["truncated"] for row in found["prompts"]] == [False, True]
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_a_probe_alone_is_enough_for_one_cut(experiment: Experiment, tmp_path: Path) -> None:
    cell = best_cell(experiment, "shapes_reward")
    for name in ("probe.json", "probe.safetensors"):
        shutil.copy(cell / name, tmp_path)
    setup = setup_of(experiment, [str(tmp_path)])
    assert ([each.cell for each in setup.asked], setup.steps, setup.by) == ([tmp_path], [2], "shapes_reward")
    assert at_other_steps(tmp_path) == {2: tmp_path}


def test_short_forms() -> None:
    assert read_schedule("2:6, 5:3,10:1") == [{"step": 2, "keep": 6}, {"step": 5, "keep": 3}, {"step": 10, "keep": 1}]
    assert read_by("a=0.7, b=0.3") == {"a": 0.7, "b": 0.3}
    assert (read_by(""), read_by("pareto"), read_by("clip_score")) == (None, "pareto", "clip_score")
    assert overrides_of() == []
    assert overrides_of(candidates=3, schedule="2:1") == [
        "select.candidates=3",
        "select.schedule=[{step: 2, keep: 1}]",
        "select.budget=0",
    ]
    assert overrides_of(budget=9) == ["select.schedule=[]", "select.budget=9"]


def test_names_of_images_differ() -> None:
    rows = [
        PromptCandidates(prompt, [Candidate(0, 5, {})]) for prompt in ("a cat!", "a cat?", "Ein Haus", "日本", "...")
    ]
    names = [name for row in file_names(rows) for name in row]
    assert names == ["a-cat-1-5.png", "a-cat-2-5.png", "ein-haus-5.png", "日本-5.png", "prompt-5.png"]


def test_what_a_selection_was_worth() -> None:
    def row(*scores: float) -> PromptCandidates:
        return PromptCandidates(
            "p", [Candidate(i, i, {}, 0 if not i else None, true={"one": s}) for i, s in enumerate(scores)]
        )

    found = worth([row(0.5, 0.1, 0.9), row(1.0, 0.0, 0.5)], "one")
    assert found is not None
    assert found == pytest.approx({"kept": 0.75, "all": 0.5, "best": 0.95, "selection_gain": 0.25 / 0.45})
    assert worth([PromptCandidates("p", [Candidate(0, 0, {}, 0)])], "one") is None


def test_the_sheet_shows_every_candidate() -> None:
    red, blue = Image.new("RGB", (8, 8), "#ff0000"), Image.new("RGB", (300, 200), "#0000ff")
    predicted = {"a_one": 1.0, "a_two": 2.0}
    kept = Candidate(0, 1, predicted, place=0, image=red, true={"a_one": 0.5})
    pruned = Candidate(1, 2, predicted, pruned=3, image=blue, preview=True)
    grey = Candidate(2, 3, predicted, pruned=3)
    sheet = np.asarray(
        contact_sheet([PromptCandidates("a prompt " * 30, [kept, pruned, grey])], ["a_one", "a_two"], "title")
    )
    for colour in ([255, 0, 0], [0, 0, 255], [0xD9, 0xD9, 0xD9], [0x00, 0x79, 0x5B]):
        assert (sheet == colour).all(2).sum() > 500
    assert labels_of(["a_one", "a_two"]) == {"a_one": "one", "a_two": "two"}
    assert labels_of(["pick_score", "clip_score"]) == {"pick_score": "pick_score", "clip_score": "clip_score"}


def test_predictions_without_units_are_no_scores_anywhere() -> None:
    """Sheet, terminal and record say so, and none draws an arrow from an order to a score."""
    predicted = {"a_one": -0.25, "a_two": 0.5}
    kept = Candidate(0, 1, predicted, place=0, true={"a_one": 0.5, "a_two": 0.75}, unscaled=frozenset({"a_one"}))
    assert score_text(kept, "a_one") == "-0.250 (order), true 0.500"
    assert score_text(kept, "a_two") == "0.500 → 0.750"
    assert score_text(replace(kept, true={}), "a_one") == "-0.250 (order)"
    probes = [{"cell": "c", "unscaled": ["a_one"]}]
    content = {"probes": probes, "denoiser_calls": 1, "denoiser_calls_of_all": 2, "worth": {}}
    title = title_of([PromptCandidates("p", [kept])], content, ["a_one", "a_two"])
    assert "predicted order" in title
    assert "→" not in title
    assert "The predictions of a_one have no units, only their order counts" in title
    table = kept_table([PromptCandidates("p", [kept])], ["a_one", "a_two"])
    assert table.columns[-1].header == "predicted order"
    lines = lines_of(content | {"seconds": {"select": 1.0, "all": 0.0}})
    assert any("The predictions of a_one have no units" in line for line in lines)
    scaled = replace(kept, unscaled=frozenset())
    assert kept_table([PromptCandidates("p", [scaled])], ["a_one"]).columns[-1].header == "predicted → true"
    assert "no units" not in title_of([PromptCandidates("p", [scaled])], content, ["a_one"])


def test_the_picture_of_a_terminal_shows_who_was_pruned() -> None:
    field = RemainingCandidates(["a red circle"], 3, 10)
    field.begin(0)
    field.advance(1)
    field.prune(1, [torch.tensor([2])])
    field.advance(1)
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    console.print(picture(field))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "'a red circle'  0@1 1@1 2" in text
    assert "step 2 of 10, 4 denoiser calls made (all candidates: 30)" in text


def test_prompts_are_read_as_those_of_a_file(keys: list[str], tmp_path: Path) -> None:
    spellings = ["a  red circle", "a red circle", " a red\u200b circle\n"]
    arguments = [word for prompt in spellings for word in ("--prompt", prompt)]
    assert not app(["select", "smoke", *keys, *arguments, "-n", "2", "-o", str(tmp_path)], standalone_mode=False)
    [row] = record_of(tmp_path)["prompts"]
    assert row["prompt"] == "a red circle"
    assert {one["seed"] for one in row["candidates"]} == {sample_seed("a red circle", index, 0) for index in range(2)}


@pytest.mark.parametrize("prompt", ["", " \t", "\u200b"])
def test_an_empty_prompt_is_refused(keys: list[str], tmp_path: Path, prompt: str) -> None:
    with pytest.raises(SelectError, match="is empty: say what to draw"):
        app(["select", "smoke", *keys, "--prompt", prompt, "-o", str(tmp_path)], standalone_mode=False)
