"""Captions in a column of a table: CSV, TSV, parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from probe_lab.cache.tables import UNREADABLE
from probe_lab.errors import ConfigError, nearest
from probe_lab.generation.prompt_text import Caption, read_text
from probe_lab.regular_files import regular

PerImage = Literal["first", "all"]
Quoting = Literal["auto", "csv", "none"]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
IMAGE_ID = "image_id"
"""The column, or the key of a record, that names the image which a caption describes."""

_DOUBLED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
"""A whole cell in quotes that holds one, written twice."""


def table_captions(path: Path, column: str, quoting: Quoting) -> list[Caption]:
    """One column of a CSV or TSV with a header; the suffix tells which.

    ``auto`` reads a CSV with quotes, and a TSV without, as the format has none, unless all names of its header stand in
    quotes. Strict: a stray quote or delimiter would change prompts without a word.

    Raises:
        ConfigError: the column is not there, or a row is broken; the sentence names its line.
    """
    text = read_text(path)
    delimiter = DELIMITERS[path.suffix.lower()]
    quoted = delimiter == "," if quoting == "auto" else quoting == "csv"
    if quoting == "auto" and delimiter == "\t":
        quoted = _is_quoted(text.splitlines()[0] if text else "", delimiter)
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    captions: list[Caption] = []
    try:
        header = next(rows, [])
        require_column(path, column, header)
        require_once(path, IMAGE_ID, header)
        at, image = header.index(column), header.index(IMAGE_ID) if IMAGE_ID in header else None
        for row in rows:
            _require_row(path, row, header, rows.line_num, delimiter, quoted=quoted)
            cell = row[at] if row else ""
            if quoting == "auto" and not quoted and _DOUBLED.fullmatch(cell):
                raise ConfigError(
                    f"prompts.path '{path}' has quotes within quotes at line {rows.line_num} ({_short(cell)}): write "
                    "prompts.quoting=csv to read them as a CSV's, or prompts.quoting=none to keep them all"
                )
            captions.append(Caption(cell, row[image] if row and image is not None else ""))
    except csv.Error as error:
        raise ConfigError(f"prompts.path '{path}' is broken at line {rows.line_num} ({error}): {_REMEDY}") from error
    return captions


_REMEDY = (
    'write a double quote inside a quoted cell twice (""), or prompts.quoting=none where quotes are part of the text'
)


def _is_quoted(header: str, delimiter: str) -> bool:
    return all(len(name) > 1 and name[0] == name[-1] == '"' for name in header.split(delimiter))


def _require_row(
    path: Path, row: Sequence[str], header: Sequence[str], line: int, delimiter: str, *, quoted: bool
) -> None:
    if not row or len(row) == len(header):
        return
    remedy = (
        f"put a cell that contains {delimiter!r} in double quotes"
        if quoted
        else "write prompts.quoting=csv where its cells stand in quotes, or give each row as many cells"
    )
    raise ConfigError(
        f"prompts.path '{path}' has {len(row)} cells at line {line} and {len(header)} in its header: {remedy}"
    )


def parquet_captions(path: Path, column: str, per_image: PerImage) -> list[Caption]:
    """A column of text, or of lists of text of which ``per_image`` takes the first or all; null is empty.

    Raises:
        ConfigError: the file is broken, or has no such column, or that holds something else.
        OSError: it is not there or cannot be opened.
    """
    # What the system says about a file that cannot be opened is clearer than what Arrow says.
    regular(path).open("rb").close()
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            require_column(path, column, names)
            require_once(path, IMAGE_ID, names)
            kind = file.schema_arrow.field(column).type
            content = file.read(columns=[column, *({IMAGE_ID} & {*names} - {column})])
    except UNREADABLE as error:
        raise ConfigError(f"prompts.path '{path}' is a broken parquet file ({_first_line(error)})") from error
    values = content.column(column).to_pylist()
    images = content.column(IMAGE_ID).to_pylist() if IMAGE_ID in content.column_names else [None] * len(values)
    if _is_text(kind):
        return [Caption(value or "", _named(image)) for value, image in zip(values, images, strict=True)]
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not _is_text(kind.value_type):
        raise ConfigError(f"prompts.column '{column}' of '{path}' holds {kind}: name a column of text")
    lists = [[text or "" for text in value or [""]] for value in values]
    return [
        caption
        for texts, image in zip(lists, images, strict=True)
        for caption in of_one_image(texts, per_image, _named(image))
    ]


def of_one_image(texts: Sequence[str], per_image: PerImage, image_id: str) -> Iterator[Caption]:
    """The captions of an image, or the first; an image without a name has that of its first caption."""
    name = image_id or (next(filter(None, texts), "") if len(texts) > 1 else "")
    for text in texts[:1] if per_image == "first" else texts:
        yield Caption(text, name)


def require_column(path: Path, column: str, names: Sequence[str]) -> None:
    """ConfigError where a table has no such column, with what it has and what to write."""
    if column not in names:
        close = next((name for name in names if name.strip().casefold().startswith(column.casefold())), "")
        remedy = f"; write prompts.column={close!r}" if close else "; name one by prompts.column"
        raise ConfigError(f"prompts.column '{column}' is not in '{path}': {nearest(column, names)}{remedy}")
    require_once(path, column, names)


def require_once(path: Path, column: str, names: Sequence[str]) -> None:
    """ConfigError where several columns of a table have this name."""
    if names.count(column) > 1:
        raise ConfigError(f"prompts.path '{path}' has {names.count(column)} columns '{column}': rename all but one")


def _named(image: object) -> str:
    return "" if image is None else str(image)


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
