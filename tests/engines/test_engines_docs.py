"""What docs/engines.md shows is what there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from omegaconf import OmegaConf

from probe_lab.config import Engine, build_experiment

TEXT = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


def test_the_example_is_an_experiment_with_two_workers_on_a_card() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    rest = OmegaConf.create({"name": "docs", "backbone": "tiny-sd"})
    experiment = build_experiment(OmegaConf.merge(rest, OmegaConf.create(example)), OmegaConf.create())
    assert (experiment.workers, experiment.engine) == (4, Engine(name="ray", gpus=0.5))


def test_every_key_is_listed_with_its_default() -> None:
    shown = dict(re.findall(r"^\| `engine\.(\w+)` \|(?: `?(\w+)`?)? \|", TEXT, re.M))
    defaults = {field.name: field.default for field in dataclasses.fields(Engine)}
    assert shown == {name: f"{value:g}" if isinstance(value, float) else value for name, value in defaults.items()}
