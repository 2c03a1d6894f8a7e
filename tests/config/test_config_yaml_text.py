"""YAML and JSON of strangers: what is nested without end, or grows by aliases, is one error and ends nothing."""

from __future__ import annotations

import itertools
import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.config.yaml_text import MOST_LEVELS, read_yaml
from probe_lab.json_text import read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def laughs(levels: int) -> str:
    names = "abcdefghijklmnop"[:levels]
    rows = [f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in itertools.pairwise(names)]
    return "\n".join(["a: &a [x, x, x, x, x, x, x, x, x, x]", *rows])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "nested more than 64"),
        ("- " * 100_000, "nested more than 64"),
        ("? " * 100_000, "nested more than 64"),
        ("{a: " * 5_000, "nested more than 64"),
        ("\n".join(" " * depth + "a:" for depth in range(1_000)), "nested more than 64"),
        (laughs(12), "aliases stand for more than 1,000,000 values"),
        (laughs(12).replace("[", "{<<: [").replace("]", "]}"), "aliases stand for|expected a mapping"),
        ("a: &a [*a]", "stands for nothing before it"),
        ("a: *b", "stands for nothing before it"),
        ("a: 2024-13-45", "does not exist"),
        ("a: !!bool x", "does not exist"),
        ("a: !!timestamp x", "does not exist"),
        ("a: \ud800", "does not exist"),
        ("a: \0", "control characters"),
        (b"a: \xe9", "UTF-8"),
    ],
)
def test_yaml_without_bounds_or_sense_is_one_error(text: str | bytes, problem: str) -> None:
    start = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=problem):
        read_yaml(text)
    assert time.monotonic() - start < 5


def test_yaml_of_people_is_read_as_before() -> None:
    deep = "[" * MOST_LEVELS + "]" * MOST_LEVELS
    assert read_yaml(deep) == json.loads(deep)
    assert read_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    assert read_yaml("a: ${oc.env:HOME}") == {"a": "${oc.env:HOME}"}
    assert read_yaml("") is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 70 + "1" + "}" * 70,
        "[" * 65 + "]" * 65,
        "1" * 5_000,
        b"\xff",
        "[1",
        "",
        '{"a": 1, "a": 2}',
        '[{"b": {"a": 1, "a": 1}}]',
    ],
)
def test_json_without_bounds_or_sense_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_json(text)


@given(VALUES)
def test_json_and_yaml_of_ordinary_values_arrive(value: object) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_yaml(yaml.safe_dump(value, allow_unicode=False)) == value
