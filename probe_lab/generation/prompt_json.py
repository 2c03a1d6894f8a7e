"""Captions in JSON and JSON lines: texts, records, MS-COCO, Karpathy's splits, or wherever ``prompts.field`` says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from probe_lab.errors import ConfigError, nearest
from probe_lab.generation.prompt_tables import IMAGE_ID, PerImage, of_one_image
from probe_lab.generation.prompt_text import Caption, is_valid, read_text
from probe_lab.json_text import read_json

_SHAPES = (
    'a .json holds a list of texts or of records ([{"prompt": "a cat"}]), COCO captions ({"annotations": [{"image_id": '
    '1, "caption": "a cat"}]}) or Karpathy\'s splits ({"images": [{"sentences": [{"raw": "a cat"}]}]}); for another '
    "one write the keys that lead to the texts, prompts.field=data.items.text for instance"
)
_IMAGE_KEYS = ("cocoid", IMAGE_ID, "imgid", "filename")
"""What names an image in Karpathy's files, the most lasting first."""


def json_captions(path: Path, column: str, field: str, split: str, per_image: PerImage) -> list[Caption]:
    """The captions of a .json file; see docs/prompts.md for its forms, which are recognised unless ``field`` leads.

    ``split`` limits Karpathy's images, empty: all.

    Raises:
        ConfigError: it is no JSON (the sentence names the line), of no such form, or a text is missing, with its place.
    """
    content = _parsed(path, read_text(path))
    if field:
        return list(_led(path, content, field.split("."), per_image))
    if isinstance(content, list):
        return _records(path, content, column, [f"entry {number}" for number in range(1, len(content) + 1)])
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return _coco(path, content["annotations"], per_image)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _karpathy(path, content["images"], split, per_image)
    raise ConfigError(f"prompts.path '{path}' has no list 'annotations' or 'images': {_SHAPES}")


def json_lines_captions(path: Path, column: str, field: str, per_image: PerImage) -> list[Caption]:
    """The captions of a file with one JSON value per line, a text or a record each; empty lines are passed over.

    Raises:
        ConfigError: a line that is no JSON, or lacks the text; the sentence names it.
    """
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    values = [_parsed(path, line, number) for number, line in lines]
    if field:
        return [
            caption
            for (number, _), value in zip(lines, values, strict=True)
            for caption in _led(path, [value], field.split("."), per_image, f"line {number}")
        ]
    return _records(path, values, column, [f"line {number}" for number, _ in lines])


def _parsed(path: Path, text: str, number: int | None = None) -> Any:
    """What a file says, or its line of this ``number``."""
    try:
        return read_json(text)
    except json.JSONDecodeError as error:
        place = f"{error.msg}, line {(number or 1) + error.lineno - 1} column {error.colno}"
        hint = ": name a file of one JSON value per line .jsonl" if error.msg == "Extra data" else ""
        raise ConfigError(f"prompts.path '{path}' is not valid JSON ({place}){hint}") from error
    except ValueError as error:
        place = f", line {number}" if number else ""
        raise ConfigError(f"prompts.path '{path}' is not valid JSON ({error}{place})") from error


def _records(path: Path, values: Sequence[Any], column: str, places: Sequence[str]) -> list[Caption]:
    captions = []
    for value, place in zip(values, places, strict=True):
        if isinstance(value, str):
            captions.append(Caption(_text(path, value, place)))
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{place} of prompts.path '{path}' is neither a text nor a record: {_SHAPES}")
        if column not in value:
            raise ConfigError(
                f"{place} of prompts.path '{path}' has no key '{column}' (prompts.column): "
                f"{nearest(column, map(str, value))}"
            )
        captions.append(Caption(_text(path, value[column], f"'{column}' of {place}"), _named(value, (IMAGE_ID,))))
    return captions


def _coco(path: Path, annotations: Sequence[Any], per_image: PerImage) -> list[Caption]:
    captions = []
    seen: set[str] = set()
    for at, annotation in enumerate(annotations):
        record = annotation if isinstance(annotation, dict) else {}
        image = _named(record, (IMAGE_ID,))
        for key, held in (("caption", _is_text(record.get("caption"))), (IMAGE_ID, bool(image))):
            if not held and (key == "caption" or per_image == "first"):
                raise ConfigError(
                    f"annotation {at} of prompts.path '{path}' has no valid '{key}': name a file of captions "
                    '(captions_*.json of MS-COCO), {"annotations": [{"image_id": 1, "caption": "a cat"}]}'
                )
        if per_image == "all" or image not in seen:
            captions.append(Caption(record["caption"], image))
        seen.add(image)
    return captions


def _karpathy(path: Path, images: Sequence[Any], split: str, per_image: PerImage) -> list[Caption]:
    captions: list[Caption] = []
    splits: set[str] = set()
    for at, entry in enumerate(images):
        image = entry if isinstance(entry, dict) else {}
        sentences = image.get("sentences")
        if not isinstance(sentences, list) or not all(isinstance(each, dict) and "raw" in each for each in sentences):
            raise ConfigError(
                f"image {at} of prompts.path '{path}' has no list 'sentences' with a 'raw' each: {_SHAPES}"
            )
        splits.add(str(image.get("split", "")))
        if split in ("", image.get("split")):
            texts = [_text(path, each["raw"], f"'raw' of image {at}") for each in sentences]
            captions += of_one_image(texts, per_image, _named(image, _IMAGE_KEYS))
    if split and split not in splits:
        raise ConfigError(
            f"prompts.split '{split}' is that of no image of '{path}': {nearest(split, splits)}; empty, it is all"
        )
    return captions


def _led(path: Path, content: Any, keys: Sequence[str], per_image: PerImage, place: str = "") -> Iterator[Caption]:
    """The texts to which ``keys`` lead; those within one entry of the outermost list are the captions of an image."""
    while isinstance(content, dict) and keys:
        content, keys = _entry(path, content, keys[0], place or "the file"), keys[1:]
    entries = content if isinstance(content, list) else [content]
    for number, entry in enumerate(entries, start=1):
        here = place or (f"entry {number}" if isinstance(content, list) else "the file")
        image = _named(entry, _IMAGE_KEYS) if isinstance(entry, dict) else ""
        yield from of_one_image(list(_texts(path, entry, keys, here)), per_image, image)


def _texts(path: Path, value: Any, keys: Sequence[str], place: str) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _texts(path, entry, keys, place)
    elif keys:
        yield from _texts(path, _entry(path, value, keys[0], place), keys[1:], place)
    else:
        yield _text(path, value, f"what prompts.field leads to in {place}")


def _entry(path: Path, value: Any, key: str, place: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        held = nearest(key, map(str, value)) if isinstance(value, dict) else f"it holds {_kind(value)}"
        raise ConfigError(f"prompts.field leads to '{key}', which {place} of '{path}' lacks: {held}")
    return value[key]


def _text(path: Path, value: Any, place: str) -> str:
    if value is None:
        return ""
    if not _is_text(value):
        kind = "text that is no valid Unicode, or NUL" if isinstance(value, str) else _kind(value)
        raise ConfigError(f"{place} of prompts.path '{path}' has no valid text (it holds {kind}): write a text there")
    return cast(str, value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and is_valid(value)


def _named(record: dict[str, Any], keys: Sequence[str]) -> str:
    """What the first of ``keys`` that is there says, as text; "" for none."""
    names = (record[key] for key in keys if isinstance(record.get(key), int | str))
    return str(next(names, ""))


def _kind(value: Any) -> str:
    return {dict: "a record", list: "a list", bool: "a truth value", type(None): "nothing"}.get(type(value), "a number")
