"""The whole of `probe-lab tradeoff` on a small real world: what it writes against scores that were made without it."""

from __future__ import annotations

import itertools
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from probe_lab.backbones.families import family_of
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache
from probe_lab.cli import app
from probe_lab.config import Experiment, load_experiment
from probe_lab.data.splits import split_of
from probe_lab.data.text_lookup import TextTable
from probe_lab.errors import ConfigError, SelectError
from probe_lab.evaluators import create
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation.generate import generate
from probe_lab.probes import load_probe, shipped
from probe_lab.probes.inputs import Inputs
from probe_lab.sweep import run_sweep
from probe_lab.tradeoff import candidate_scores
from probe_lab.tradeoff.budget_plans import Sampler, best_within
from probe_lab.tradeoff.candidate_scores import probes_of
from probe_lab.tradeoff.compared_ways import Compared
from probe_lab.tradeoff.measure import measure
from probe_lab.tradeoff.policies import draw_candidates
from probe_lab.tradeoff.records import Tradeoff, way_name
from probe_lab.tradeoff.terminal_summary import where_it_is
from probe_lab.tradeoff.test_prompts import held_out_prompts
from probe_lab.tradeoff.timing import Bench
from probe_lab.tradeoff.way_names import PLANS, Way

KEYS = [
    "prompts.count=24",
    "sampling.height=32",
    "sampling.width=32",
    "data.split={train: 0.4, val: 0.3, test: 0.3}",
    "trainer.max_epochs=1",
    "tracking.uri=",
    "workers=1",
    "sweep={probe.step: [2, 4], probe.taps: [[up_blocks.1/activation]]}",
    "tradeoff={prompts: 3, candidates: [2, 6], fewer_steps: [3, 4, 5], timed: [2], timed_prompts: 1, rounds: 2, "
    "budgets: [15, 12, 500, 600, 3], planned_prompts: 2}",
]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tradeoff")
    return [*KEYS, f"cache.root={folder}/cache", f"runs={folder}/runs", f"reports={folder}/reports"]


@pytest.fixture(scope="module")
def experiment(overrides: list[str]) -> Experiment:
    made = load_experiment("smoke", overrides)
    generate(made, lambda done, total: None, lambda plan: None)
    score_cache(made.cache_folder, made.evaluators)
    assert not run_sweep(made).failed
    return made


@pytest.fixture(scope="module")
def made(experiment: Experiment) -> Tradeoff:
    return measured(experiment)


def measured(experiment: Experiment, **told: Any) -> Tradeoff:
    ignored = told.get("told", lambda *words: None)

    def watching(what: str, unit: str) -> Any:
        return nullcontext(lambda done, total: ignored(what, done, total))

    return measure(experiment, watching=watching, announce=lambda plan: ignored("plan", 0, 0))


def test_its_prompts_are_of_the_test_split(experiment: Experiment) -> None:
    own = Cache(experiment.cache_folder).samples
    test = own.drop_duplicates("prompt_id").query("split == 'test'")["prompt"].tolist()
    prompts = held_out_prompts(experiment)
    assert list(prompts) == test[:3]
    assert all(split_of(prompt, experiment.data.split) == "test" for prompt in prompts)


def test_candidates_begin_with_the_seeds_of_the_experiment(experiment: Experiment, made: Tradeoff) -> None:
    own, world = Cache(experiment.cache_folder), Cache(experiment.cache_folder.with_name("smoke_tradeoff"))
    assert world.manifest.seeds == 6
    frames = []
    for cache in (own, world):
        scores = pd.Series(cache.scores("shapes_reward"), name="score")
        frames.append(pd.concat([cache.samples[["prompt", "seed"]], scores], axis=1).set_index(["prompt", "seed"]))
    both = frames[0].join(frames[1], rsuffix="_world", how="inner")
    assert len(both) == 3 * 4
    np.testing.assert_allclose(both["score"], both["score_world"], atol=1e-5)


def test_rows_are_what_the_scores_say(experiment: Experiment, made: Tradeoff) -> None:
    world = Cache(experiment.cache_folder.with_name("smoke_tradeoff"))
    target = world.scores("shapes_reward").reshape(3, 6).astype(float)
    rows = {(row.way, row.candidates): row for row in made.rows if row.steps in (8, 5)}
    assert rows["random", 1].score == pytest.approx(target.mean())
    assert rows["best_of_n", 6].score == rows["oracle", 6].score == pytest.approx(target.max(1).mean())
    preview = world.preview_scores("shapes_reward", 2).reshape(3, 6)
    chosen = target[np.arange(3), preview.argmax(1)]
    assert rows["preview", 6].score == pytest.approx(chosen.mean())
    lookahead = world.preview_scores("shapes_reward", 2, "lookahead").reshape(3, 6)
    assert rows["lookahead", 6].score == pytest.approx(target[np.arange(3), lookahead.argmax(1)].mean())
    drawn = draw_candidates(3, 6, 2, experiment.seed).tolist()
    ahead = [target[p, max(pair, key=lambda one: lookahead[p, one])] for p in range(3) for pair in drawn[p]]
    assert rows["cascade", 2].score == rows["lookahead", 2].score == pytest.approx(np.mean(ahead))
    fewer = Cache(experiment.cache_folder.with_name("smoke_tradeoff_5steps"))
    assert fewer.manifest.steps == 5
    assert rows["fewer_steps", 6].score == pytest.approx(fewer.scores("shapes_reward").reshape(3, 6).max(1).mean())
    chosen_early = [row for row in made.rows if row.way in ("probe", "preview", "progressive", "cascade")]
    assert all(row.score <= rows["best_of_n", row.candidates].score + 1e-9 for row in chosen_early)
    assert all(row.lower <= row.score <= row.upper for row in made.rows)
    assert (made.about.prompts, made.about.seeds, made.about.evaluator) == (3, 6, "shapes_reward")


def test_what_is_timed_has_its_spread(made: Tradeoff) -> None:
    timed = {(row.way, row.candidates) for row in made.rows if row.timed and row.way not in PLANS}
    ways = {"best_of_n", "fewer_steps", "preview", "lookahead", "probe", "progressive", "cascade", "oracle"}
    assert timed == {("random", 1)} | {(way, 2) for way in ways}
    assert all(0 < row.seconds_low <= row.seconds <= row.seconds_high for row in made.rows if row.timed)
    assert all(row.timed and row.flops > 0 for row in made.rows if row.way in PLANS)


def test_arithmetic_is_counted_where_time_is(made: Tradeoff) -> None:
    flops = {(row.way, row.steps): row.flops for row in made.rows if row.timed}
    assert all(np.isnan(row.flops) for row in made.rows if not row.timed)
    one = flops["random", 8]  # text encoder, eight calls, a decode
    assert flops["best_of_n", 8] == pytest.approx(2 * one, rel=0.1)  # one text for both
    per_call = (flops["fewer_steps", 5] - flops["fewer_steps", 3]) / 2 / 2
    assert flops["best_of_n", 8] - flops["fewer_steps", 5] == pytest.approx(2 * 3 * per_call, rel=0.01)
    decode = one - 8 * per_call
    assert 0 < decode < per_call * 8
    # At call 2 the other candidate ends; a preview decodes both, a lookahead takes a call more for each.
    assert flops["probe", 8] == pytest.approx(flops["best_of_n", 8] - 6 * per_call - decode, rel=0.1)
    assert flops["preview", 8] < flops["lookahead", 8] < flops["best_of_n", 8]


def test_the_share_that_the_probe_leaves_is_chosen_on_validation_prompts(
    experiment: Experiment, made: Tradeoff
) -> None:
    world = Cache(experiment.cache_folder.with_name("smoke_tradeoff_val"))
    assert (world.manifest.seeds, len(world.samples)) == (4, 3 * 4)
    assert all(split_of(prompt, experiment.data.split) == "val" for prompt in world.samples["prompt"].unique())
    thinning = made.about.thinning
    assert thinning is not None
    assert (thinning.prompts, thinning.seeds, len(thinning.tried)) == (3, 4, 3)
    target = world.scores("shapes_reward").reshape(3, 4).astype(float)
    ahead = world.preview_scores("shapes_reward", 2, "lookahead").reshape(3, 4)
    assert thinning.tried[-1].score == pytest.approx(target[np.arange(3), ahead.argmax(1)].mean())
    chosen = next(left.number for left in thinning.tried if left.below <= left.error)
    assert thinning.share == chosen / 4


def test_rivals_at_the_same_calls_cost_the_same(experiment: Experiment, made: Tradeoff) -> None:
    same = [pair for pair in made.pairs if pair.basis == "calls"]
    assert {pair.question for pair in same} == {
        "beats_lookahead", "beats_fewer_steps", "beats_best_of_n", "plan_beats_one_lookahead",
        "plan_beats_fewer_steps", "plan_beats_best_of_n",
    }  # fmt: skip
    assert all(bool(pair.budget) is pair.question.startswith("plan_") for pair in made.pairs)
    assert all(pair.calls_first == pytest.approx(pair.calls_second) for pair in same)
    # One cut at 2 of 8 with 6 candidates: 18 calls, which are 2.25 whole images and 3.6 images of five steps.
    rows = {(row.way, row.candidates): row for row in made.rows}
    target = Cache(experiment.cache_folder.with_name("smoke_tradeoff")).scores("shapes_reward").reshape(3, 6)

    def best(number: int) -> float:
        return float(np.mean([max(s) for row in target.tolist() for s in itertools.combinations(row, number)]))

    (pair,) = (p for p in same if p.second == "best of N, N = 2.25" and p.first == rows["probe", 6].text)
    assert pair.difference == pytest.approx(rows["probe", 6].score - 0.75 * best(2) - 0.25 * best(3), abs=1e-6)
    assert {p.second for p in same if p.first == pair.first and p.question == "beats_fewer_steps"} == {
        "fewer steps, N = 6, 3 steps", "fewer steps, N = 4.5, 4 steps", "fewer steps, N = 3.6, 5 steps",
    }  # fmt: skip
    timed = [pair for pair in made.pairs if pair.basis == "seconds"]
    assert all(pair.seconds_first == pytest.approx(pair.seconds_second) for pair in timed)
    assert all(pair.p >= 0 for pair in made.pairs if pair.lower < pair.upper)


def candidates_in(experiment: Experiment, steps: int, suffix: str, prompts: int) -> Sampler:
    """What caches on disk say of the candidates of plans, read without the code that plans."""
    name = f"smoke_{suffix}" + (f"_{steps}steps" if steps < 8 else "")
    cache, cut = Cache(experiment.cache_folder.with_name(name)), steps // 4
    assert (cache.manifest.steps, cache.manifest.seeds) == (steps, 6)
    (cell,) = experiment.runs_folder.glob("step02-cnn*")
    probe = load_probe(cell)
    taps = {tap: cache.read(f"{cut}/{tap}", 0).float() for tap in probe.spec.taps}
    ids = torch.tensor(cache.samples["prompt_id"].tolist())
    text = TextTable.load(cache, "backbone").rows(ids) if probe.spec.needs_text or probe.spec.aligned else ()
    inputs = Inputs(taps, torch.full((len(ids),), 2), torch.arange(len(ids)), *text)
    place = probe.spec.evaluators.index("shapes_reward")
    scores = (
        cache.scores("shapes_reward"),
        probe.predict(inputs)[:, place].numpy(),
        cache.preview_scores("shapes_reward", cut),
        cache.preview_scores("shapes_reward", cut, "lookahead"),
    )
    return Sampler(steps, cut, *(values.reshape(prompts, 6).astype(float) for values in scores))


def test_plans_are_the_best_on_validation_prompts(experiment: Experiment, made: Tradeoff) -> None:
    samples = Cache(experiment.cache_folder.with_name("smoke_tradeoff_plans_4steps")).samples
    assert all(split_of(prompt, experiment.data.split) == "val" for prompt in samples["prompt"].unique())
    validation = [candidates_in(experiment, steps, "tradeoff_plans", 2) for steps in (8, 4)]
    for way, first in PLANS.items():
        rows = [row for row in made.rows if row.way == way]
        plans = {budget: best_within(budget, first, validation, experiment.seed) for budget in (3, 12, 15, 500, 600)}
        assert plans.pop(3) is None
        assert plans.pop(600) == plans[500]  # which is left out, since it buys none of them more
        assert [(row.budget, row.steps, row.candidates, row.calls) for row in rows] == [
            (budget, plan.steps, plan.candidates, plan.calls) for budget, plan in plans.items() if plan is not None
        ]


def test_plans_are_measured_in_their_own_steps(experiment: Experiment, made: Tradeoff) -> None:
    rows = [row for row in made.rows if row.way in PLANS and row.candidates == 6]
    assert rows
    for row in rows:
        world = candidates_in(experiment, row.steps, "tradeoff", 3)
        cuts = [tuple(map(int, cut.split(":"))) for cut in row.schedule.split(",")]
        kept = []
        for prompt in range(3):
            left = list(range(6))
            for scores, (_, keep) in zip([world.chosen_by(PLANS[row.way]), world.lookahead], cuts, strict=False):
                left = sorted(left, key=lambda seed, of=scores[prompt]: -of[seed])[:keep]
            kept.append(max(world.target[prompt, seed] for seed in left))
        assert row.score == pytest.approx(np.mean(kept))


@pytest.mark.parametrize("way", PLANS)
def test_a_plan_is_timed_as_what_its_stages_keep(experiment: Experiment, way: Way) -> None:
    cuts = ((1, 2),) if way == "lookahead_plan" else ((1, 4), (1, 2))
    plan = Compared(way, 6, 4, 6 * 1 + 2 * 3 + (6 if way == "lookahead_plan" else 4), cuts, 20)
    (cell,) = experiment.runs_folder.glob("step02-cnn*")
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    bench = Bench(experiment, pipe, create("shapes_reward", experiment.scoring), cell, {})
    prompts = held_out_prompts(experiment)
    options = family_of(pipe).call_options(replace(experiment.sampling, steps=4), prompts)
    del options["prompt"]
    selection = bench._select(plan)(list(prompts), generator=bench._generators(plan, prompts), **options)
    assert selection.denoiser_calls == 3 * plan.calls
    world = candidates_in(experiment, 4, "tradeoff", 3)
    for prompt, kept in enumerate(selection.kept):
        left = list(range(6))
        for scores, (_, keep) in zip([world.chosen_by(PLANS[way]), world.lookahead], cuts, strict=False):
            left = sorted(left, key=lambda seed, of=scores[prompt]: -of[seed])[:keep]
        assert set(kept) == set(left)


def test_plans_of_one_budget_are_compared(made: Tradeoff) -> None:
    pairs = [pair for pair in made.pairs if pair.basis == "budget"]
    assert {(pair.question, way_name(pair.first), way_name(pair.second)) for pair in pairs} == {
        ("plan_beats_lookahead", "planned with the probe", "planned with lookaheads"),
        ("plan_beats_preview", "planned with the probe", "planned with previews"),
    }
    assert sorted(pair.budget for pair in pairs) == [12, 12, 15, 15, 500, 500]
    rows = {row.text: row for row in made.rows}
    for pair in pairs:
        assert pair.difference == pytest.approx(rows[pair.first].score - rows[pair.second].score)
        assert max(pair.calls_first, pair.calls_second) <= pair.budget


def test_without_budgets_nothing_is_planned(experiment: Experiment, made: Tradeoff) -> None:
    folder = experiment.cache_folder.parent / "apart"
    asked = replace(experiment.tradeoff, budgets=[], fewer_steps=[4], rounds=0)
    apart = replace(experiment, tradeoff=asked, cache=replace(experiment.cache, root=str(folder)))
    plain = measured(apart)
    made.save(experiment.runs_folder)  # as the other tests left it
    assert not [row for row in plain.rows if row.way in PLANS]
    assert {path.name for path in folder.iterdir()} == {f"smoke_tradeoff{end}" for end in ("", "_val", "_4steps")}


def test_several_cuts_take_no_more_calls_than_one(made: Tradeoff) -> None:
    rows = {(row.way, row.candidates): row for row in made.rows}
    for number in (2, 6):
        assert rows["progressive", number].calls <= rows["probe", number].calls
    pair = next(pair for pair in made.pairs if pair.question == "progressive" and pair.candidates == 6)
    difference = rows["progressive", 6].score - rows["probe", 6].score
    assert pair.difference == pytest.approx(difference)
    assert pair.lower <= pair.difference <= pair.upper


def test_again_it_only_measures_time(experiment: Experiment, made: Tradeoff) -> None:
    told: list[tuple[str, int, int]] = []
    once = replace(experiment, tradeoff=replace(experiment.tradeoff, rounds=1, timed=[]))
    again = measured(once, told=lambda *words: told.append(words))
    assert "plan" not in {what for what, _, _ in told}  # nothing was generated
    assert [row.score for row in again.rows] == [row.score for row in made.rows]
    assert repr(Tradeoff.load(experiment.runs_folder)) == repr(again)  # what was not timed is NaN, which equals nothing


def test_the_command_and_the_report(experiment: Experiment, overrides: list[str], made: Tradeoff) -> None:
    result = CliRunner().invoke(app, ["tradeoff", "smoke", *overrides, "tradeoff.rounds=0"])
    assert result.exit_code == 0, result.output
    assert "best of N" in result.output
    assert "`probe-lab report smoke` draws it; files: " in " ".join(result.output.split())
    assert "after `probe-lab sweep smoke`, `probe-lab report" in where_it_is("smoke", experiment.cache_folder)
    assert "better than scoring previews?" in result.output
    assert "better than fewer steps? probe minus fewer steps, 3 steps, with as many denoiser calls: " in result.output
    assert "% of the candidates to the lookahead: the smallest share that 3 validation prompts" in result.output
    result = CliRunner().invoke(app, ["report", "smoke", *overrides])
    assert result.exit_code == 0, result.output
    page = (experiment.report_folder / "index.html").read_text()
    assert "Quality over compute" in page


def test_as_many_steps_are_not_fewer(experiment: Experiment) -> None:
    with pytest.raises(SelectError, match=r"tradeoff.fewer_steps=8 are not fewer than sampling.steps=8"):
        measured(replace(experiment, tradeoff=replace(experiment.tradeoff, fewer_steps=[8])))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("steps", 16, "trained on images of 8 steps and sampling.steps is 16"),
        ("height", 96, "trained on images of 32×32 and sampling asks for 96×32"),
    ],
)
def test_probes_of_another_sampling_are_refused_at_once(
    experiment: Experiment, key: str, value: int, words: str
) -> None:
    (cell,) = [path.name for path in experiment.runs_folder.glob("step02-cnn*")]
    elsewhere = replace(experiment, sampling=replace(experiment.sampling, **{key: value}))
    with pytest.raises(SelectError, match=words):
        measure(elsewhere, cell, watching=lambda what, unit: pytest.fail(what), announce=lambda plan: None)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("data.split={train: 0.3, val: 0.3, test: 0.4}", "it would be tested on prompts that it was trained on"),
        ("capture.normalize=text", "was trained with capture.normalize=all and the experiment has text"),
        ("capture.size=8", "was trained with capture.size="),
    ],
)
def test_cells_of_another_split_or_capture_are_refused_at_once(
    experiment: Experiment, overrides: list[str], changed: str, words: str
) -> None:
    with pytest.raises(SelectError, match=words):
        measured(load_experiment("smoke", [*overrides, changed]))


def test_an_evaluator_that_the_probes_do_not_predict_is_refused_at_once(experiment: Experiment) -> None:
    (cell,) = [path.name for path in experiment.runs_folder.glob("step02-cnn*")]
    other = replace(experiment, probe=replace(experiment.probe, evaluators=["shapes_fidelity"]))
    with pytest.raises(SelectError, match="'shapes_fidelity' is not predicted by the probe"):
        measure(other, cell, watching=lambda what, unit: pytest.fail(what), announce=lambda plan: None)


def test_a_shipped_probe_is_asked_for_by_that_word(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (cell,) = experiment.runs_folder.glob("step02-cnn*")
    folder = tmp_path / "tiny-sd"
    shutil.copytree(cell, folder, ignore=shutil.ignore_patterns("metrics.json", "predictions.parquet"))
    monkeypatch.setattr(shipped, "SHIPPED_PROBES", tmp_path)
    probes = probes_of(experiment, "shipped", "shapes_reward")
    assert (probes.cell, dict(probes.cells), probes.step) == (folder, {2: folder}, 2)
    other = replace(experiment.data, split=replace(experiment.data.split, train=0.5, test=0.2))
    with pytest.raises(SelectError, match="it would be tested on prompts that it was trained on"):
        probes_of(replace(experiment, data=other), "shipped", "shapes_reward")


@pytest.mark.parametrize(("changes", "advice"), [({}, "tradeoff.thin"), ({"thin": 0.5}, r"tradeoff.budgets=\[\]")])
def test_without_validation_prompts_it_says_what_needs_them(
    experiment: Experiment, changes: dict[str, Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_scores, "check_split", lambda *given: None)  # the cells are of another split
    none = replace(experiment.data, split=replace(experiment.data.split, train=0.7, val=0.0))
    with pytest.raises(SelectError, match=rf"none of the 24 prompts of smoke is in its validation split .*{advice}"):
        measured(replace(experiment, data=none, tradeoff=replace(experiment.tradeoff, **changes)))


def test_without_test_prompts_it_is_refused(experiment: Experiment) -> None:
    none = replace(experiment.data.split, train=0.7, val=0.3, test=0.0)
    with pytest.raises(SelectError, match=r"none of the 24 prompts of smoke is in its test split"):
        measured(replace(experiment, data=replace(experiment.data, split=none)))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("tradeoff.candidates=[1,2]", r"'tradeoff.candidates' is \[1, 2\]: name numbers of 2 or more"),
        ("tradeoff.thin=1", r"'tradeoff.thin' is 1.0: it must be at least 0 and below 1"),
    ],
)
def test_impossible_ones_are_refused(said: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("smoke", [said])


def test_files_of_the_prompts_are_where_the_runs_are(experiment: Experiment, made: Tradeoff) -> None:
    stored = pd.read_parquet(Path(experiment.runs_folder) / "tradeoff_prompts.parquet")["prompt"].tolist()
    assert tuple(stored) == held_out_prompts(experiment)
