"""What a selection is said to cost is what was measured: the arithmetic on made-up seconds, and a run in miniature."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
import torch

from benchmarks.backbones import Workload, random_sdxl
from benchmarks.sdxl_cost import Round, rounds_of, sdxl_lines
from benchmarks.sdxl_cost import figures as sdxl_figures
from benchmarks.select_cost import figures, ideal, measure_tiny, table
from benchmarks.stopwatch import Seconds, Stopwatch, in_turn


def test_ratios_are_of_the_sides_of_one_round() -> None:
    assert ideal() == pytest.approx(0.2 + 0.8 / 5)
    sides = {
        "all": [Seconds(10.0, 20.0), Seconds(20.0, 20.0), Seconds(10.0, 10.0)],
        "selection": [Seconds(4.0, 10.0), Seconds(12.0, 8.0), Seconds(5.0, 3.0)],
        "kept alone": [Seconds(2.0, 2.0), Seconds(5.0, 2.0), Seconds(5.0, 2.0)],
    }
    found = figures(sides)
    assert found["ratio"] == pytest.approx({"min": 0.4, "median": 0.5, "max": 0.6})
    assert found["ratio_wall"] == pytest.approx({"min": 0.3, "median": 0.4, "max": 0.5})
    assert found["stock"] == pytest.approx({"min": 0.36, "median": 0.4, "max": 0.6})  # 0.2 + 0.8 · kept alone / all


def test_capture_and_probe_are_shares_of_the_denoiser_without_them() -> None:
    one = Round(denoiser=2.0, plain=3.0, captured=3.5, own=0.1, probe=0.02)
    assert one.share == pytest.approx(0.06)
    assert one.by_difference == pytest.approx(0.26)
    found = sdxl_figures([one, Round(denoiser=1.0, plain=3.0, captured=3.0, own=0.0, probe=0.02)])
    assert found["share"] == pytest.approx({"min": 0.02, "median": 0.04, "max": 0.06})


def test_a_call_inside_a_timed_call_counts_once() -> None:
    class Clocked:
        now = 0

        def outer(self) -> int:
            Clocked.now += 1
            return self.inner() + 1

        def inner(self) -> int:
            Clocked.now += 10
            return 1

    plain = Clocked.outer
    watch = Stopwatch(lambda: Clocked.now)
    with watch.on([(Clocked, "outer"), (Clocked, "inner")]):
        assert Clocked().outer() == 2
        assert watch.seconds == 11
        Clocked().inner()
    Clocked().inner()
    assert watch.seconds == 21
    assert Clocked.outer is plain


def test_sides_go_first_in_turn() -> None:
    order: list[str] = []
    sides: dict[str, Callable[[], object]] = {name: lambda name=name: order.append(name) for name in "abc"}  # type: ignore[misc]
    found = in_turn(sides, 4)
    assert order == [*"abc", *"bca", *"cab", *"abc"]
    assert {name: len(taken) for name, taken in found.items()} == dict.fromkeys("abc", 4)


@pytest.mark.parametrize("backbone", ["tiny-sd", "tiny-sd3"])
def test_a_selection_in_miniature(backbone: str) -> None:
    (row,) = measure_tiny(backbone, {1: 1})
    assert isinstance(row["grey_levels"], int)
    assert row["grey_levels"] <= 1  # the kept image is the one that stands at its place among all
    ratio = row["ratio"]
    assert isinstance(ratio, dict)
    assert 0.2 < ratio["min"] < 1  # fewer denoiser rows, and at least a fifth of them
    result = json.loads(json.dumps({"tiny": [row], "sdxl": None}))
    assert f"{ratio['median']:.3f}" in table(result)


def test_a_denoiser_in_miniature() -> None:
    pipe = random_sdxl((64, 64, 64), middle=1, deep=1, dtype=torch.bfloat16)
    assert {part.dtype for part in pipe.unet.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    workload = Workload("small", lambda: pipe, images=1, side=64, guidance=1.0, steps=1)
    rounds, taps = rounds_of(pipe, workload, 2)
    assert len(rounds) == 2
    for one in rounds:
        assert 0 < one.denoiser < one.plain
        assert 0 < one.own < one.captured
        assert one.probe > 0
    assert taps["up_blocks.2/activation"] == [64, 8, 8]
    assert sum(tap.endswith("/attention") for tap in taps) == 4
    described = {"parameters": 1, "dtype": "bfloat16", "latents": 8, "taps": taps} | sdxl_figures(rounds)
    share = described["share"]
    assert isinstance(share, dict)
    assert any(f"{share['median']:.4f}" in line for line in itertools.islice(sdxl_lines(described), 1, None))
