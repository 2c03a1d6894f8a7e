from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.config.ranges import span
from probe_lab.errors import ConfigError


@pytest.mark.parametrize(
    ("content", "whole", "values"),
    [
        ({"from": 1, "to": 12, "step": 2}, True, (1, 3, 5, 7, 9, 11)),
        ({"from": 1, "to": 3}, True, (1, 2, 3)),
        ({"from": 0.1, "to": 0.5, "step": 0.1}, False, (0.1, 0.2, 0.3, 0.4, 0.5)),
        ({"from": 0, "to": 1, "step": 0.5}, False, (0.0, 0.5, 1.0)),
        ({"from": 1e-4, "to": 1e-1, "count": 4, "scale": "log"}, False, (1e-4, 1e-3, 1e-2, 1e-1)),
        ({"from": 0, "to": 1, "count": 5}, False, (0, 0.25, 0.5, 0.75, 1)),
        ({"from": 16, "to": 128, "count": 4, "scale": "log"}, True, (16, 32, 64, 128)),
        ({"from": 1, "to": 3, "count": 9}, True, (1, 2, 3)),
        ({"from": 5, "to": 5}, True, (5,)),
    ],
)
def test_ranges_as_a_person_would_write_them_out(
    content: dict[str, object], whole: bool, values: tuple[float, ...]
) -> None:
    found = span("probe.width", content, whole=whole)
    assert found == values
    assert not whole or all(type(value) is int for value in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"from": 5, "to": 1}, "goes from 5 to 1"),
        ({"from": 1}, "'to: None': write a number"),
        ({"from": True, "to": 3}, "'from: True'"),
        ({"from": 1, "to": math.inf}, "'to: inf'"),
        ({"from": 1, "to": 9, "steps": 2}, r"unknown word 'steps' .* did you mean 'step'"),
        ({"from": 1, "to": 9, "step": 0}, "the step 0: it must be greater than 0"),
        ({"from": 1, "to": 9, "step": 2, "count": 3}, "a step and a count"),
        ({"from": 1, "to": 9, "scale": "log"}, "a scale and no count"),
        ({"from": 1, "to": 9, "count": 1}, "the count 1"),
        ({"from": 1, "to": 9, "count": 2.5}, "the count 2.5"),
        ({"from": 1, "to": 9, "count": 3, "scale": "lg"}, "did you mean 'log'"),
        ({"from": 0, "to": 9, "count": 3, "scale": "log"}, "on a log scale it must be greater than 0"),
        ({"from": 0, "to": 1, "step": 1e-9}, "take a larger step"),
    ],
)
def test_what_is_no_range_is_one_sentence(content: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        span("probe.width", content, whole=False)
    assert "'probe.width'" in str(caught.value)


@given(st.integers(-1000, 1000), st.integers(0, 300), st.integers(1, 40))
def test_a_stepped_range_of_whole_numbers_is_pythons_with_its_end(first: int, length: int, step: int) -> None:
    found = span("trainer.seed", {"from": first, "to": first + length, "step": step}, whole=True)
    assert list(found) == list(range(first, first + length + 1, step))


@given(st.integers(0, 10**4), st.integers(1, 10**3), st.integers(0, 100), st.integers(1, 6))
def test_a_stepped_range_of_decimals_has_no_rounding_dust(first: int, step: int, more: int, digits: int) -> None:
    """Multiples of a power of ten: what a person writes."""
    unit = 10**digits
    found = span("x", {"from": first / unit, "to": (first + more * step) / unit, "step": step / unit}, whole=False)
    assert list(found) == [(first + i * step) / unit for i in range(more + 1)]


@given(st.floats(1e-6, 1e3), st.floats(1.5, 1e4), st.integers(2, 60), st.sampled_from(["linear", "log"]))
def test_a_counted_range_is_even_and_has_both_ends(first: float, factor: float, count: int, scale: str) -> None:
    last = first * factor
    found = span("x", {"from": first, "to": last, "count": count, "scale": scale}, whole=False)
    assert (found[0], found[-1], len(found)) == (first, last, count)
    at = [math.log(value) for value in found] if scale == "log" else list(found)
    assert [b - a for a, b in itertools.pairwise(at)] == pytest.approx(
        [(at[-1] - at[0]) / (count - 1)] * (count - 1), rel=1e-5
    )
