"""What ``probe-lab init`` writes: an experiment that loads, lays out and reads what its model has."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_lab.backbones.families import BUILT_IN, FAMILIES
from probe_lab.backbones.outline import taps_of_backbone
from probe_lab.config import load_experiment
from probe_lab.errors import ConfigError
from probe_lab.generation.starting_file import STARTS, resolved, write_start
from probe_lab.sweep import cells

KNOWN = ("sd", "sd3", "tiny-sd", "tiny-sd3")
"""Whose taps can be listed without weights in a second or two."""


def test_every_family_and_built_in_backbone_has_a_start() -> None:
    assert set(STARTS) == {family.name for family in FAMILIES} | set(BUILT_IN)


@pytest.mark.parametrize("name", [*KNOWN, "pixart-sigma", "flux2"])
def test_the_file_is_an_experiment_of_taps_that_the_model_has(name: str, tmp_path: Path) -> None:
    path = write_start(name, tmp_path / "mine.yaml")
    experiment = load_experiment(str(path))
    laid_out = cells(experiment)
    assert {cell.experiment.probe.model for cell in laid_out} >= {"cnn", "prompt_only", "linear", "x0_preview"}
    assert experiment.probe.taps == experiment.capture.taps
    assert {cell.experiment.data.train_prompts for cell in laid_out} == {0, 50, 100, 200}
    steps = {cell.experiment.probe.step for cell in laid_out}
    assert steps <= set(experiment.capture.steps)
    assert max(steps) < experiment.sampling.steps
    if name in KNOWN:
        for tap in experiment.capture.taps[:2]:  # as a pattern it has to match
            assert [str(match) for match in taps_of_backbone(experiment.backbone, [f"{tap[:-1]}?"])] == [tap]


@pytest.mark.parametrize(
    ("given", "meant"), [("SDXL", "sdxl"), ("Qwen_Image", "qwen-image"), ("pixart", "pixart-sigma"), ("sd", "sd")]
)
def test_names_as_people_write_them(given: str, meant: str) -> None:
    assert resolved(given) == meant


@pytest.mark.parametrize("given", ["tiny", "dalle", ""])
def test_a_name_that_means_none_or_several_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="known are sd, sdxl"):
        resolved(given)


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_start("tiny-sd") == Path("my_tiny_sd.yaml")
    before = Path("my_tiny_sd.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"my_tiny_sd\.yaml is there already"):
        write_start("tiny-sd")
    assert Path("my_tiny_sd.yaml").read_bytes() == before
    with pytest.raises(ConfigError, match="cannot write"):
        write_start("tiny-sd", tmp_path / "nowhere" / "mine.yaml")
