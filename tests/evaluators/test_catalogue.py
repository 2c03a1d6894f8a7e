"""The catalogue: everything that DESIGN names is there, and nothing is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import ConfigError, ScoreError
from probe_lab.evaluators import available, card, create

LEARNED = ["aesthetic", "blip_itc", "blip_itm", "clip_score", "hps_v2", "hps_v2_1", "image_reward", "pick_score"]


def test_every_evaluator_says_what_it_is() -> None:
    assert set(LEARNED) < set(available())
    for name in available():
        told = card(name)
        assert told.measures, name
        assert told.range, name
        assert told.licence, name
        assert bool(told.weights) == (name in LEARNED)


@pytest.mark.parametrize("name", LEARNED)
def test_without_a_checkpoint_it_says_where_the_released_one_is(name: str) -> None:
    with pytest.raises(ScoreError, match=rf"{name} has no checkpoint.*scoring\.models\.{name}\.checkpoint.*https://"):
        create(name)


def test_only_evaluators_with_a_package_have_a_reference() -> None:
    scoring = Scoring(models={"pick_score": EvaluatorModel(checkpoint="x", backend="reference")})
    with pytest.raises(ConfigError, match=r"scoring\.models\.pick_score\.backend .*image_reward, hps_v2"):
        create("pick_score", scoring)


def test_listing_and_exact_scoring_import_no_model_library() -> None:
    code = (
        "import sys; from probe_lab.evaluators import available, create; available(); create('shapes_reward'); "
        "print([name for name in ('open_clip', 'transformers', 'hpsv2', 'ImageReward') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"
