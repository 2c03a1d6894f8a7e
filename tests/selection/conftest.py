"""Tiny pipelines of every family, each made once for the tests of a file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diffusers import DiffusionPipeline
from tiny_pipelines import PIPELINES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusionPipeline]:
    made: dict[str, DiffusionPipeline] = {}

    def get(name: str) -> DiffusionPipeline:
        if name not in made:
            made[name] = PIPELINES[name](tmp_path_factory.mktemp("tiny"))
        return made[name]

    return get
