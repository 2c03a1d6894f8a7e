"""The captions of a prompt file, as they stand in it: text, CSV/TSV, parquet, COCO captions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from probe_lab.cache.tables import UNREADABLE
from probe_lab.errors import ConfigError, nearest
from probe_lab.json_text import read_json

PerImage = Literal["first", "all"]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".txt", *DELIMITERS, ".parquet", ".json")
COCO = '{"annotations": [{"image_id": 1, "caption": "a cat"}]}'


def file_captions(path: Path, column: str, per_image: PerImage) -> list[str]:
    """Every caption of a file in its order, empty and repeated ones included; the suffix tells the format.

    ``column`` is read by tables, ``per_image`` by COCO files and by parquet columns that hold lists.

    Raises:
        ConfigError: the file is missing or broken, its suffix is none of ``SUFFIXES``, or the column is not there.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"prompts.path '{path}' has the suffix '{path.suffix}', which tells no format: "
            f"name a file that ends in {', '.join(SUFFIXES)}"
        )
    try:
        if suffix == ".txt":
            return _lines(path)
        if suffix == ".json":
            return _coco(path, per_image)
        if suffix == ".parquet":
            return parquet_captions(path, column, per_image)
        return _cells(path, column, DELIMITERS[suffix])
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts.path '{path}' cannot be read (it is not UTF-8): save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"prompts.path '{path}' cannot be read ({error.strerror or error}): name a file of prompts"
        ) from error


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig") as file:
        return list(file)


def _cells(path: Path, column: str, delimiter: str) -> list[str]:
    """One column of a table with a header. Strict: a stray quote or comma would change prompts without a word."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        cells: list[str] = []
        try:
            header = next(rows, [])
            _require_column(path, column, header)
            at = header.index(column)
            for row in rows:
                if row and len(row) != len(header):
                    raise ConfigError(
                        f"prompts.path '{path}' has {len(row)} cells at line {rows.line_num} and {len(header)} in "
                        f"its header: put a cell that contains {delimiter!r} in double quotes"
                    )
                cells.append(row[at] if row else "")
        except csv.Error as error:
            raise ConfigError(
                f"prompts.path '{path}' is broken at line {rows.line_num} ({error}): "
                'write a double quote inside a quoted cell twice ("")'
            ) from error
    return cells


def parquet_captions(path: Path, column: str, per_image: PerImage) -> list[str]:
    """A column of text, or of lists of text of which ``per_image`` takes the first or all; null is empty.

    Raises:
        ConfigError: the file is broken, or has no such column, or that holds something else.
        OSError: it is not there or cannot be opened.
    """
    path.open("rb").close()  # what the system says about a file that cannot be opened is clearer than what Arrow says
    try:
        with pq.ParquetFile(path) as file:
            _require_column(path, column, file.schema_arrow.names)
            kind = file.schema_arrow.field(column).type
            values = file.read(columns=[column]).column(column).to_pylist()
    except UNREADABLE as error:
        raise ConfigError(f"prompts.path '{path}' is a broken parquet file ({_first_line(error)})") from error
    if _is_text(kind):
        return [value or "" for value in values]
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not _is_text(kind.value_type):
        raise ConfigError(f"prompts.column '{column}' of '{path}' holds {kind}: name a column of text")
    lists = [value or [""] for value in values]
    return [text or "" for texts in lists for text in (texts[:1] if per_image == "first" else texts)]


def _coco(path: Path, per_image: PerImage) -> list[str]:
    try:
        content = read_json(path.read_bytes())
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise ConfigError(f"prompts.path '{path}' is not valid JSON ({error})") from error
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ConfigError(f"prompts.path '{path}' has no list 'annotations': a .json holds COCO captions, {COCO}")
    keys = ("caption", "image_id") if per_image == "first" else ("caption",)
    captions: dict[str, str] = {}
    for at, annotation in enumerate(annotations):
        known = annotation if isinstance(annotation, dict) else {}
        for key in keys:
            if not _is_value(known.get(key), key):
                raise ConfigError(
                    f"annotation {at} of prompts.path '{path}' has no valid '{key}': "
                    f"name a file of captions (captions_*.json of MS-COCO), {COCO}"
                )
        image = repr(annotation["image_id"]) if per_image == "first" else str(at)
        captions.setdefault(image, annotation["caption"])
    return list(captions.values())


def _is_value(value: object, key: str) -> bool:
    """A caption has to be text that UTF-8 can hold: JSON may spell half a surrogate pair."""
    if key == "caption":
        return isinstance(value, str) and value == value.encode(errors="ignore").decode()
    return isinstance(value, int | str)


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def _require_column(path: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise ConfigError(f"prompts.column '{column}' is not in '{path}': {nearest(column, names)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
