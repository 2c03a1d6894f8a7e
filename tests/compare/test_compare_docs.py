"""docs/compare.md names every option."""

from __future__ import annotations

import inspect
from pathlib import Path

from probe_lab import cli

DOCS = Path(__file__).parents[2] / "docs" / "compare.md"


def test_the_docs_name_every_option() -> None:
    options = set(inspect.signature(cli.compare).parameters) - {"experiments", "where"} | {"filter"}
    page = DOCS.read_text(encoding="utf-8")
    assert [name for name in sorted(options) if f"`--{name}" not in page] == []
