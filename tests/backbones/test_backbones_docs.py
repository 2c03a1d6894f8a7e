"""What docs/backbones.md shows is what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from probe_lab.backbones import families as backbones
from probe_lab.backbones.families import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()


def test_the_shown_family_is_the_real_one() -> None:
    code = re.search(r"```python\n(FLUX = .*?)```", PAGE, re.DOTALL)
    assert code
    names = dict(vars(backbones))
    exec(code[1], names)
    for entry in dataclasses.fields(backbones.Family):
        if entry.name != "pooled":  # two functions are never equal
            assert getattr(names["FLUX"], entry.name) == getattr(backbones.FLUX, entry.name), entry.name
    assert len(code[1].splitlines()) <= 20


def test_the_table_names_every_family() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE) == [family.name for family in FAMILIES]
