"""Expected gains and prices of ways of selecting, against simulated scores and known rows."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from probe_lab.errors import ConfigError
from probe_lab.selection.budget import calls_of
from probe_lab.tradeoff.breakeven import (
    Terms,
    expected_best,
    needed_skill,
    numbers_of,
    offer_of,
    offers,
    pays,
    steps_of,
    unpriced,
)
from probe_lab.tradeoff.breakeven_table import MULTIPLES, breakeven_lines, offers_table
from probe_lab.tradeoff.measured_terms import of_tradeoff, terms_of
from probe_lab.tradeoff.policies import Stage, draw_candidates, kept_scores
from probe_lab.tradeoff.records import About, Tradeoff, TradeoffRow

TERMS = Terms(
    prices={"call": 1.0, "decode": 2.0, "tiny_decode": 0.1, "evaluator": 0.3, "probe": 0.02},
    skills={"probe": 0.45, "preview": 0.7, "lookahead": 0.8},
    step=5,
    steps=25,
    fewer={10: 0.2},
)


def test_the_best_of_normal_numbers() -> None:
    assert expected_best(1) == pytest.approx(0.0, abs=1e-9)
    assert expected_best(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert expected_best(3) == pytest.approx(1.5 / math.sqrt(math.pi))
    numbers = np.sort(np.random.default_rng(0).normal(size=(40_000, 8)), axis=1)
    assert expected_best(8) == pytest.approx(numbers[:, -1].mean(), abs=0.01)
    assert expected_best(8, 3) == pytest.approx(numbers[:, -3:].mean(), abs=0.01)


@pytest.mark.parametrize("keep", [1, 2])
def test_gains_are_those_of_simulated_candidates(keep: int) -> None:
    rng = np.random.default_rng(keep)
    target = rng.normal(size=(20_000, 8))
    skill = TERMS.skills["probe"]
    prediction = skill * target + math.sqrt(1 - skill**2) * rng.normal(size=target.shape)
    kept = kept_scores(target, [Stage(prediction, keep)], draw_candidates(len(target), 8, 8, 0))
    assert offer_of(replace(TERMS, keep=keep), "probe", 8).gain == pytest.approx(kept.mean(), abs=0.02)


def test_prices_count_what_each_way_does() -> None:
    calls = calls_of(((5, 1),), 6, 25)
    assert offer_of(TERMS, "random", 1).price == 25 + 2
    assert offer_of(TERMS, "best_of_n", 6).price == pytest.approx(6 * (25 + 2 + 0.3))
    assert offer_of(TERMS, "fewer_steps", 6, 10).price == pytest.approx(6 * (10 + 2 + 0.3))
    assert offer_of(TERMS, "probe", 6).price == pytest.approx(calls + 6 * 0.02 + 2)
    assert offer_of(TERMS, "preview", 6).price == pytest.approx(calls + 6 * 2.3 + 2)
    assert offer_of(TERMS, "lookahead", 6).price == pytest.approx(calls + 6 * 3.3 + 2)


@pytest.mark.parametrize("budget", [27.0, 60.0, 130.0])
def test_each_way_has_as_many_candidates_as_the_budget_pays_for(budget: float) -> None:
    found = offers(TERMS, budget)
    for offer in found:
        assert offer.price <= budget + 1e-6
        if offer.way != "random":
            more = offer_of(TERMS, offer.way, offer.candidates + 1, offer.steps)
            assert more.price > budget
    assert [offer.gain for offer in found] == sorted((offer.gain for offer in found), reverse=True)


def test_the_probe_is_ahead_from_the_skill_that_is_needed() -> None:
    for budget in (50.0, 90.0, 200.0):
        needed = needed_skill(TERMS, budget)
        assert needed is not None
        for skill, ahead in ((needed + 0.01, True), (needed - 0.01, False)):
            terms = replace(TERMS, skills={**TERMS.skills, "probe": skill})
            assert (offers(terms, budget)[0].way == "probe") is ahead
    assert needed_skill(TERMS, 27.0) is None


def test_where_it_pays_nothing_else_gives_more() -> None:
    terms = replace(TERMS, skills={**TERMS.skills, "probe": 0.72})
    ranges = pays(terms)
    assert ranges
    for low, high in ranges:
        assert {offers(terms, budget)[0].way for budget in (low, high)} == {"probe"}
    assert pays(replace(TERMS, skills={**TERMS.skills, "probe": 0.1})) == []


def test_what_was_measured_is_read_back() -> None:
    rows = [row(TERMS, "random", 1)]
    for way, number in itertools.product(("best_of_n", "probe", "preview", "lookahead"), (3, 8, 20)):
        rows.append(row(TERMS, way, number))
    rows += [row(TERMS, "fewer_steps", number, 10) for number in (3, 8, 20)]
    read = of_tradeoff(rows, "here")
    assert read.unit == "seconds"
    assert read.prices == pytest.approx({part: TERMS.prices[part] for part in read.prices}, abs=1e-3)  # type: ignore[index]
    assert read.skills == pytest.approx(dict(TERMS.skills))
    assert read.fewer == pytest.approx(dict(TERMS.fewer))
    untimed = of_tradeoff([replace(one, seconds=math.nan, flops=math.nan) for one in rows], "here")
    assert (untimed.prices, untimed.unit) == ({"call": 1.0}, "calls")


@pytest.mark.parametrize(
    ("evaluator", "step", "steps", "used"),
    [("reward", 5, 25, True), ("other", 5, 25, False), ("reward", 8, 25, False), ("reward", 5, 50, False)],
)
def test_a_tradeoff_of_another_evaluator_or_cut_is_not_used(
    evaluator: str, step: int, steps: int, used: bool, tmp_path: Path
) -> None:
    rows = tuple(row(TERMS, way, number) for way, number in [("random", 1), ("best_of_n", 8), ("probe", 8)])
    Tradeoff(rows, (), About("reward", 60, 8, "a model", "25 steps", (), "a CPU")).save(tmp_path)
    for at, gain in ((5, 0.3), (8, 0.4)):
        metrics = [
            {"evaluator": "reward", "split": split, "metric": metric, "estimate": gain}
            for split, metric in (("test", "selection_gain"), ("val", "srcc_within"))
        ]
        cell = tmp_path / f"cnn-{at}"
        cell.mkdir()
        content = {"cell": cell.name, "model": "cnn", "step": at, "loss": "listwise", "seed": 0, "taps": ["x0"]}
        (cell / "metrics.json").write_text(json.dumps({**content, "config_hash": "0", "metrics": metrics}))
        (cell / "config.yaml").write_text("sampling:\n  steps: 25\n")
    read = terms_of(tmp_path, evaluator, step, steps)
    if used:
        assert read.skills == pytest.approx({"probe": TERMS.skills["probe"]})
        assert read.text == f"{tmp_path}/tradeoff.parquet"
    else:
        assert read.skills == ({"probe": 0.4} if (evaluator, step) == ("reward", 8) else {})
        assert read.text.endswith("tradeoff.parquet there is of step 5 of 25 by reward, and is not used")
        assert f"at step {step} of {steps} by {evaluator} in" in read.text


def test_parts_without_a_price_are_named_with_the_ways_that_need_them() -> None:
    bare = replace(TERMS, prices={"call": 1.0, "decode": 0.0}, skills={"preview": 0.7, "tiny_preview": 0.6})
    assert unpriced(bare) == {
        "evaluator": ["best_of_n", "fewer_steps", "preview", "tiny_preview"],
        "tiny_decode": ["tiny_preview"],
    }
    line = list(breakeven_lines(bare, "calls"))[-1]
    assert line.startswith("Not priced: evaluator (best of N, fewer steps, ")
    assert "; tiny_decode (tiny preview)" in line
    assert "probe (probe)" in line
    assert unpriced(TERMS) == {}
    assert not any("Not priced" in line for line in breakeven_lines(TERMS, "calls"))


def row(terms: Terms, way: str, candidates: int, steps: int = 25) -> TradeoffRow:
    offer = offer_of(terms, way, candidates, steps)
    calls = {"random": 25, "best_of_n": 25 * candidates, "fewer_steps": 10 * candidates}
    cut = calls_of(((5, 1),), candidates, 25) + (candidates if way == "lookahead" else 0)
    score, seconds = 0.6 + 0.1 * offer.gain, offer.price + 0.5  # of the text encoder
    return TradeoffRow(
        way=way,  # type: ignore[arg-type]
        candidates=candidates,
        keep=1,
        steps=steps,
        schedule="" if way in calls else f"{terms.step}:1",
        calls=float(calls.get(way, cut)),
        seconds=seconds,
        seconds_low=seconds,
        seconds_high=seconds,
        score=score,
        lower=score,
        upper=score,
    )


def test_the_table_has_every_way_and_marks_the_best_of_each_budget() -> None:
    table = offers_table(TERMS, (), "calls")
    cells = [list(column.cells) for column in table.columns]
    assert len(cells) == 1 + len(MULTIPLES)
    for column in cells[1:]:
        assert sum(str(cell).startswith("* ") for cell in column) == 1
    first, second = breakeven_lines(TERMS, "calls")
    assert "at no budget up to twelve images" in first
    assert f"{needed_skill(TERMS, 2 * TERMS.image):.2f} for 2 images" in second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prices": {"decode": 1.0}}, "a denoiser call has no price"),
        ({"prices": {"call": 1.0, "decod": 1.0}}, "did you mean 'decode'"),
        ({"prices": {"call": 1.0, "decode": -1.0}}, "a price of -1.0 is none"),
        ({"skills": {"probe": 1.2}}, "probe=1.2 is no correlation"),
        ({"step": 25}, "a cut at step 25 of 25"),
    ],
)
def test_impossible_terms_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TERMS, **changes)  # type: ignore[arg-type]


def test_numbers_of_the_command_line() -> None:
    assert numbers_of("--price", ["call=1", "decode=0.5"]) == {"call": 1.0, "decode": 0.5}
    for text in ("call", "=1", "call=x", "call=nan"):
        with pytest.raises(ConfigError, match="is no NAME=NUMBER"):
            numbers_of("--price", [text])
    assert steps_of({"10": 0.1}) == {10: 0.1}
    with pytest.raises(ConfigError, match="names no sampling steps"):
        steps_of({"ten": 0.1})
