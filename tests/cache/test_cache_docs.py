"""What docs/cache.md lists is what there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from probe_lab.cache import Manifest

DOCS = Path(__file__).parents[2] / "docs" / "cache.md"


def test_docs_name_every_key_of_the_manifest() -> None:
    table = DOCS.read_text().partition("## Manifest")[2].partition("## When")[0]
    names = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert names == {field.name for field in dataclasses.fields(Manifest)}
