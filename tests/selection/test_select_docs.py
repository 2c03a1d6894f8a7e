"""What docs/select.md lists is what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from omegaconf import OmegaConf

from probe_lab.config import Select, load_experiment
from probe_lab.selection import SCHEDULERS

TEXT = (Path(__file__).parents[2] / "docs" / "select.md").read_text()


def test_the_section_is_one_of_an_experiment() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (said,) = OmegaConf.to_container(OmegaConf.create(text)).values()  # type: ignore[union-attr]
    overrides = [f"select.{key}={json.dumps(value)}" for key, value in said.items()]
    found = load_experiment("smoke", overrides).select
    assert found == Select(**said)
    assert {"budget"} == set(Select.__dataclass_fields__) - set(said)


def test_the_schedulers_are_those_that_are_known() -> None:
    (line,) = re.findall(r"^Schedulers: (.*?)\. ", TEXT, re.MULTILINE)
    assert len(line.split(", ")) == len(SCHEDULERS)
