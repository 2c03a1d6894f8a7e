"""Whatever differs between a cache and an experiment is named, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from cache_world import World
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.cache import Manifest, require_same
from probe_lab.cache.mismatch import KEYS
from probe_lab.errors import CacheError

STORED = World(Path("unused")).manifest()
PLAIN = sorted({field.name for field in fields(Manifest)} - {"code_version", "taps", "extra", "cache_dtype"})


def changed(name: str, amount: int) -> object:
    """Another value of the same type."""
    value = getattr(STORED, name)
    if isinstance(value, tuple):
        return (*value, 100 + amount)
    return value + amount if isinstance(value, int | float) else f"{value}{amount}"


@given(names=st.sets(st.sampled_from(PLAIN), min_size=1), amount=st.integers(1, 50))
def test_every_key_that_differs_is_named_with_both_values(names: set[str], amount: int) -> None:
    wanted = replace(STORED, code_version="another", **{name: changed(name, amount) for name in names})
    with pytest.raises(CacheError) as caught:
        require_same(Path("data_cache/c"), STORED, wanted)
    message = str(caught.value)
    assert "\n" not in message
    assert "data_cache/c" in message
    assert "another cache.name" in message
    for name in PLAIN:
        assert (f"{KEYS[name]} (cache: " in message) == (name in names)
    for name in names - {"captured_steps"}:
        assert f"{KEYS[name]} (cache: {getattr(STORED, name)}, experiment: {getattr(wanted, name)})" in message


def test_the_code_may_be_another() -> None:
    require_same(Path("c"), STORED, replace(STORED, code_version="another"))


def test_taps_and_further_settings_are_named_one_by_one() -> None:
    wanted = replace(STORED, taps={**STORED.taps, "x0": (1, 2, 2)}, extra={"sampling.vae_tiling": "true"})
    with pytest.raises(CacheError) as caught:
        require_same(Path("c"), STORED, wanted)
    assert "capture.taps x0 (cache: [4, 2, 2], experiment: [1, 2, 2])" in str(caught.value)
    assert "sampling.vae_tiling (cache: default, experiment: true)" in str(caught.value)
    assert "mid/activation" not in str(caught.value)
