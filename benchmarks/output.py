"""How a benchmark shows what it measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path


def show(result: Mapping[str, object], table: Callable[[dict[str, object]], str], path: Path | None) -> None:
    """Print the table, then the JSON, or write the JSON to ``path`` where one is given."""
    print(table(dict(result)))
    text = json.dumps(result, indent=2)
    if path:
        path.write_text(text + "\n")
    else:
        print(text)
