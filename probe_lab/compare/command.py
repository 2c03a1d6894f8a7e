"""What ``probe-lab compare`` does with its options: make the sheet, and show it or write it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from probe_lab.compare.cell_sheet import compared
from probe_lab.compare.query import Query
from probe_lab.compare.sheet import Form, Sheet
from probe_lab.compare.terminal import sheet_table
from probe_lab.errors import ReportError
from probe_lab.runs import Runs

ROWS = 20
STDOUT = "-"


def answer(
    runs: Runs | Path,
    query: Query,
    console: Console,
    *,
    diff: tuple[str, str] | None = None,
    files: Mapping[Form, str | None],
) -> None:
    """Show the sheet of a query, or of the difference of two sides; or write it to ``files`` ("-": standard output).

    A ``limit`` of None shows 20 rows in the terminal and writes all; 0 is all of them.
    """
    wanted = {form: target for form, target in files.items() if target}
    limit = query.limit if query.limit is not None else (0 if wanted else ROWS)
    query = dataclasses.replace(query, limit=limit or None)
    if diff:
        from probe_lab.compare.difference import difference  # its metrics take seconds to import

        sheet = difference(runs, *diff, query)
    else:
        sheet = compared(runs, query)
    for form, target in wanted.items():
        _write(sheet, form, target, console)
    if not wanted:
        console.print(sheet_table(sheet))


def _write(sheet: Sheet, form: Form, target: str, console: Console) -> None:
    if target == STDOUT:
        sys.stdout.write(sheet.text(form))
        return
    try:
        Path(target).write_text(sheet.text(form), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"cannot write {target}: {error.strerror or error}; name a file that can be made") from error
    console.print(f"{len(sheet.frame)} rows: {target}", markup=False)
