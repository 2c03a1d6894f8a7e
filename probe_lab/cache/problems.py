"""How `verify` says what is wrong and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `file` relative to the cache, `row` in that table or shard (None: all of it).

    A missing score has no row in its own file: `row` is then that of the sample in samples.parquet.
    """

    file: str
    row: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.row is None else f' row {self.row}'}: {self.message}"


def problem(folder: Path, path: Path, message: str, row: int | None = None) -> Problem:
    return Problem(path.relative_to(folder).as_posix(), row, message)


def runs(values: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, last)."""
    found: list[tuple[int, int]] = []
    for value in values:
        if found and value == found[-1][1] + 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


def ranges(values: Iterable[int]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs(values))
