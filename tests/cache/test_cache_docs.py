"""The code blocks of docs/cache.md run, in order, as one program."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from probe_lab.cache import Manifest

DOCS = Path(__file__).parents[2] / "docs" / "cache.md"


def test_examples_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), str(DOCS), "exec"), {"__name__": "docs"})
    assert (tmp_path / "example" / "shards" / "00001.json").exists()


def test_docs_name_every_key_of_the_manifest() -> None:
    table = DOCS.read_text().partition("## Manifest")[2].partition("## When")[0]
    names = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert names == {field.name for field in dataclasses.fields(Manifest)}
