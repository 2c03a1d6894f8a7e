"""Prompts of a source of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from probe_lab.config import load_experiment
from probe_lab.errors import ConfigError
from probe_lab.generation.prompts import collect_prompts, sample_table

MODULE = """
from probe_lab.generation.prompt_text import Caption

def given(prompts):
    yield "a dog"
    yield Caption("two  cats", image_id="7")
    yield "a dog"
    yield from (line for line in prompts.path.split(","))

def wrong(prompts):
    return ["a dog", 3]

number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given_prompts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "given_prompts", raising=False)


def test_its_captions_are_chosen_from_like_those_of_a_file() -> None:
    experiment = load_experiment(
        "smoke", ["prompts.source=given_prompts:given", "prompts.path=x,y", "evaluators=[shapes_clip_score]"]
    )
    chosen = collect_prompts(experiment.prompts, experiment.seed)
    assert chosen.prompts == ("a dog", "two cats", "x", "y")
    assert chosen.duplicates == 1
    table = sample_table(experiment).drop_duplicates("prompt")
    assert table["image_id"].tolist() == ["", "7", "", ""]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("given_prompts:wrong", "caption 2 of prompts.source=given_prompts:wrong is a int: give texts"),
        ("given_prompts:number", "the source of prompts 'given_prompts:number' is a int: name a function"),
        ("given_prompts:givne", "'given_prompts' has no 'givne': did you mean 'given'"),
        ("fiel", "'prompts.source' is not valid: there is no source of prompts 'fiel': did you mean 'file'"),
    ],
)
def test_what_gives_no_captions_is_refused_in_one_line(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collect_prompts(load_experiment("smoke", [f"prompts.source={source}"]).prompts, 0)
