"""The captions of a prompt file, as they stand in it: text, CSV/TSV, parquet, JSON and JSON lines."""

from __future__ import annotations

import io
from pathlib import Path

from probe_lab.config import Prompts
from probe_lab.errors import ConfigError
from probe_lab.generation.prompt_json import json_captions, json_lines_captions
from probe_lab.generation.prompt_tables import DELIMITERS, parquet_captions, table_captions
from probe_lab.generation.prompt_text import Caption, read_text

JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".txt", *DELIMITERS, ".parquet", ".json", *JSON_LINES)


def file_captions(path: Path, prompts: Prompts) -> list[Caption]:
    """Every caption of a file in its order, empty and repeated ones included; the suffix tells the format.

    Raises:
        ConfigError: the file is missing or broken, its suffix is none of ``SUFFIXES``, or it lacks what the keys of
            ``prompts`` name.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"prompts.path '{path}' has the suffix '{path.suffix}', which tells no format: "
            f"name a file that ends in {', '.join(SUFFIXES)}"
        )
    try:
        if suffix == ".txt":
            return [Caption(line) for line in io.StringIO(read_text(path), newline=None)]
        if suffix == ".json":
            return json_captions(path, prompts.column, prompts.field, prompts.split, prompts.per_image)
        if suffix in JSON_LINES:
            return json_lines_captions(path, prompts.column, prompts.field, prompts.per_image)
        if suffix == ".parquet":
            return parquet_captions(path, prompts.column, prompts.per_image)
        return table_captions(path, prompts.column, prompts.quoting)
    except OSError as error:
        raise ConfigError(
            f"prompts.path '{path}' cannot be read ({error.strerror or error}): name a file of prompts"
        ) from error
