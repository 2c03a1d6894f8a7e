"""Which tap should I use: the cheapest that validates as well as the best, or none where validation cannot tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from probe_lab.cache import Cache
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.reads import Reads
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import guide, tap_choice
from probe_lab.runs.table import write_results

Array = npt.NDArray[np.float64]
Edit = Callable[[Path, str, str, Callable[[dict[str, Any]], None]], None]
Scalars = Callable[[Path, str, list[str]], None]


def _material(simulated: Any, runs: Path | None = None, cache: bool = True) -> Material:
    results = load_results(runs or simulated.runs)
    opened = Cache(simulated.cache) if cache else None
    return Material(results, choose(results, simulated.world.evaluators, None), opened)


def _per_prompt(table: pd.DataFrame) -> pd.Series[float]:
    groups = table.groupby("prompt_id")
    return groups.apply(lambda g: stats.spearmanr(g["prediction"], g["target"]).statistic, include_groups=False)


def test_values_and_differences_are_paired_over_prompts_and_seeds(simulated: Any) -> None:
    material = _material(simulated)
    found = tap_choice.guides(material)["shapes_reward"]
    assert found.prompts == 12
    scores = {}
    for candidate in found.candidates:
        cells = material.results.seeds(candidate.variant).values()
        seeds = [_per_prompt(material.results.predictions(c, "shapes_reward", "val")) for c in cells]
        scores[candidate] = np.mean(seeds, axis=0)
        assert len(seeds) == 2
        assert candidate.validation.estimate == pytest.approx(scores[candidate].mean())
    assert found.best is max(found.candidates, key=lambda candidate: candidate.validation.estimate)
    for candidate, own in scores.items():
        differences = scores[found.best] - own
        assert candidate.behind.estimate == pytest.approx(differences.mean(), abs=1e-12)
        if candidate is not found.best:  # over training seeds too, so no narrower than that of the prompts
            bounds = stats.ttest_1samp(differences, 0).confidence_interval()
            assert candidate.behind.lower <= bounds.low + 1e-9
            assert candidate.behind.upper >= bounds.high - 1e-9
    assert (found.best.behind.lower, found.best.behind.upper) == (0, 0)
    assert found.seeds == 2


def test_the_pick_is_the_cheapest_as_good_and_cost_is_steps_then_bytes(simulated: Any) -> None:
    found = tap_choice.guides(_material(simulated))["shapes_reward"]
    keys = [(c.cost.calls, c.cost.size) for c in found.candidates]
    assert keys == sorted(keys)
    assert len(found.candidates) == len(simulated.world.steps) * len(simulated.world.taps)
    good = [candidate for candidate in found.candidates if candidate.behind.lower <= 0 < candidate.validation.lower]
    assert found.pick is good[0]
    assert found.best in good
    assert len(good) < len(found.candidates)
    sizes = {c.variant.taps: c.cost.size for c in found.candidates}
    assert sizes == {tap: (16 if tap.endswith("attention") else 6) * 8 * 8 * 2 for tap in simulated.world.taps}


def test_what_a_lookahead_and_a_preview_take_is_part_of_cost_and_name(
    simulated: Any, runs_copy: Path, write_scalars: Scalars
) -> None:
    up = "up_blocks.1.attentions.0/attention"
    write_scalars(runs_copy, f"cnn-5-{up.replace('/', '_')}-listwise+infonce-", ["lookahead:shapes_reward"])
    write_scalars(runs_copy, f"cnn-5-{up.replace('/', '_')}-mse-", ["preview:shapes_reward", "preview:shapes_binding"])
    material = _material(simulated, runs_copy)
    found = tap_choice.guides(material)["shapes_reward"]
    assert len(found.candidates) == 14  # two more: what they read tells them apart
    at_five = {c.reads.text(): c.cost for c in found.candidates if c.variant.step == 5}
    alone = [text for text in at_five if " of the " not in text]
    previews = "up 1.0 attn + shapes reward of the preview + shapes binding of the preview"
    ahead = "up 1.0 attn + shapes reward of the lookahead"
    assert list(at_five) == [*alone, previews, ahead]
    assert len(alone) == 3
    assert (at_five[previews].calls, at_five[previews].evaluators) == (5, 2)
    assert (at_five[ahead].calls, at_five[ahead].evaluators) == (6, 1)
    assert {(at_five[text].calls, at_five[text].evaluators) for text in alone} == {(5, 0)}
    chosen = {c.reads.text(): c for c in found.candidates if c.variant.step == 5}
    lead = guide._lead(material, "shapes_reward", dataclasses.replace(found, pick=chosen[ahead]))
    assert f"use step 5, {ahead}: " in lead
    assert (
        "For every seed it takes one more denoiser call, a decode and an evaluator run beside the denoiser calls"
        in lead
    )
    assert chosen[previews].reads.needs == "a decode and 2 evaluator runs"
    assert chosen["up 1.0 attn"].reads.needs == ""
    with drawing():
        _, table = guide.section(material).tables
    assert [row[2:4] for row in table.rows if row[0] == ahead] == [(6, 1)]


def test_the_lookahead_as_a_tap_is_one_more_call_without_a_decode() -> None:
    reads = Reads("block 3/attention+lookahead")
    assert reads.looks_ahead
    assert reads.needs == "one more denoiser call"


def test_what_may_be_chance_is_not_recommended(simulated: Any) -> None:
    material = _material(simulated)
    chosen = tap_choice.candidates_of(material.results, "shapes_reward")[:3]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 3)) * 0.3
    noise -= noise.mean(axis=0)
    weak = tap_choice.decided(material, chosen, _values(noise + np.array([0.0, 0.02, 0.01])), [1] * len(chosen))
    assert not any(candidate.as_good for candidate in weak.candidates)
    assert weak.pick is None
    lead = guide._lead(material, "shapes_reward", weak)
    assert "validation cannot tell which tap to use" in lead
    assert "no candidate is known to rank better than chance" in lead
    strong = tap_choice.decided(material, chosen, _values(noise + np.array([0.0, 0.5, 0.5])), [1] * len(chosen))
    assert not next(c for c in strong.candidates if c.variant == chosen[0]).as_good
    assert strong.pick is not None
    assert strong.pick.as_good


def _values(of_prompts: Array) -> list[Array]:
    """[prompts, candidates] -> of each candidate [1 training, prompts]."""
    return list(of_prompts.T[:, None, :])


def test_the_luckiest_of_many_at_chance_is_not_recommended(simulated: Any) -> None:
    """Each has one chance in forty to look better than chance; that one of ten does is no news."""
    material = _material(simulated)
    chosen = tap_choice.candidates_of(material.results, "shapes_reward")[:10]
    rng, lucky, named = np.random.default_rng(1), 0, 0
    for _ in range(40):
        found = tap_choice.decided(
            material, chosen, _values(0.3 * rng.normal(size=(30, len(chosen)))), [1] * len(chosen)
        )
        lucky += any(candidate.validation.lower > 0 for candidate in found.candidates)
        named += found.pick is not None
    assert lucky > 5
    assert named <= 5


def test_the_luckiest_of_many_trainings_at_a_place_is_not_recommended(simulated: Any) -> None:
    """Its p says nothing where it is the best of twelve."""
    material = _material(simulated)
    chosen = tap_choice.candidates_of(material.results, "shapes_reward")[:3]
    rng, named, blindly = np.random.default_rng(2), 0, 0
    for _ in range(60):
        noise = 0.3 * rng.normal(size=(12, 30, len(chosen)))
        best = np.take_along_axis(noise, noise.mean(axis=1, keepdims=True).argmax(axis=0, keepdims=True), 0)[0]
        named += tap_choice.decided(material, chosen, _values(best), [12] * len(chosen)).pick is not None
        blindly += tap_choice.decided(material, chosen, _values(best), [1] * len(chosen)).pick is not None
    assert named <= 6
    assert blindly > 12


def test_the_trainings_of_a_place_are_counted(simulated: Any) -> None:
    results = load_results(simulated.runs)
    for variant in tap_choice.candidates_of(results, "shapes_reward"):
        others = tap_choice.trained_at(results, variant, "shapes_reward")
        assert variant in others
        assert {(other.step, other.taps) for other in others} == {(variant.step, variant.taps)}
    assert len(tap_choice.trained_at(results, variant, "nobody")) == 0


def test_nothing_below_chance_is_recommended(simulated: Any) -> None:
    material = _material(simulated)
    chosen = tap_choice.candidates_of(material.results, "shapes_reward")[:2]
    noise = 0.1 * np.random.default_rng(0).normal(size=(30, 2))
    assert tap_choice.decided(material, chosen, _values(noise - 0.2), [1] * len(chosen)).pick is None


def test_a_selection_is_priced_to_its_end() -> None:
    """A call more for every candidate against a call less for those that are finished."""
    five = tap_choice.SelectionCalls(5, 1, 25)
    assert five.calls(5, 0) == 5 * 5 + 20
    assert five.calls(5, 1) == 5 * 6 + 20
    assert five.calls(6, 0) < five.calls(5, 1)  # though both have six calls for every seed
    assert tap_choice.SelectionCalls(4, 4, 25).calls(3, 0) == tap_choice.SelectionCalls(4, 4, 25).calls(8, 0) == 100
    costs = [
        tap_choice.CandidateCost(6, 0, 9, 9, five.calls(6, 0)),
        tap_choice.CandidateCost(6, 1, 1, 1, five.calls(5, 1)),
    ]
    assert min(costs, key=lambda cost: cost.key) is costs[0]


def test_every_place_is_represented_by_its_best_validated_training(
    simulated: Any, runs_copy: Path, edit_metrics: Edit
) -> None:
    def raise_it(row: dict[str, Any]) -> None:
        if row["metric"] == "srcc_within":
            row["estimate"] = 0.99

    tap = "up_blocks.1.attentions.0/attention"
    edit_metrics(runs_copy, f"cnn-5-{tap.replace('/', '_')}-mse", "val", raise_it)
    results = load_results(runs_copy)
    losses = {(v.step, v.taps): v.loss for v in tap_choice.candidates_of(results, "shapes_reward")}
    assert losses[5, tap] == "mse"
    assert losses[8, tap] == "listwise"


def test_test_numbers_play_no_part(simulated: Any, runs_copy: Path) -> None:
    before = tap_choice.guides(_material(simulated))["shapes_reward"]
    table = pd.read_parquet(runs_copy / "results.parquet")
    table["estimate"] = -table["estimate"]
    write_results(runs_copy, table)
    after = tap_choice.guides(_material(simulated, runs_copy))["shapes_reward"]
    assert (after.pick, after.best) == (before.pick, before.best)


def test_section_answers_in_one_sentence_and_tables(simulated: Any) -> None:
    material = _material(simulated)
    found = tap_choice.guides(material)
    with drawing():
        section = guide.section(material)
    pick = found["shapes_reward"].pick
    test = material.results.value(pick.variant, "shapes_reward", "srcc_within")
    assert test is not None
    assert section.lead.startswith(f"For shapes reward, use step {pick.variant.step}, ")
    assert f"SRCC {test.estimate:.2f} [{test.lower:.2f}, {test.upper:.2f}]".replace("-", "−") in section.lead
    answers, candidates = section.tables
    assert [row[0] for row in answers.rows] == ["shapes reward", "shapes binding"]
    assert answers.rows[1][2] == material.results.value(
        found["shapes_binding"].pick.variant, "shapes_binding", "srcc_within"
    )
    assert candidates.highlight == found["shapes_reward"].candidates.index(pick)
    assert [row[1] for row in candidates.rows] == sorted(row[1] for row in candidates.rows)
    assert sum(row[8] == "yes" for row in candidates.rows) < len(candidates.rows)
    assert "12 validation prompts" in " ".join(section.explanation.split())
    filled = [line for line in section.drawings[0].figure.axes[0].lines if line.get_markersize() == 4]
    assert len(filled) == len(candidates.rows)


def test_without_a_cache_sizes_do_not_count_and_it_says_so(simulated: Any) -> None:
    with drawing():
        section = guide.section(_material(simulated, cache=False))
    assert {row[4] for row in section.tables[1].rows} == {None}
    assert "sizes of arrays are not known" in section.explanation
    assert section.lead


def test_parameters_leave_statistics_out(tmp_path: Path) -> None:
    path = tmp_path / "probe.safetensors"
    names = {"head.weight": 6, "encoder.standardise.0.mean": 4, "encoder.out.bias": 2, "target_mean": 3}
    save_file({name: torch.zeros(size) for name, size in names.items()}, path)
    assert tap_choice.parameters(path) == 8
    assert tap_choice.parameters(tmp_path / "none") is None
    path.write_bytes(b"broken")
    assert tap_choice.parameters(path) is None


def test_an_evaluator_without_validation_is_named(simulated: Any) -> None:
    material = _material(simulated)
    choice = dataclasses.replace(material.choice, evaluators=("image_reward",))
    section = guide.section(dataclasses.replace(material, choice=choice))
    assert section.skipped == ("No probe has a validation SRCC within prompts of ImageReward.",)
