"""The files that a selection leaves: images, the contact sheet, and ``selection.json`` with every number."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from probe_lab import __version__
from probe_lab.cache.files import remove_leftovers, write_whole
from probe_lab.errors import SelectError
from probe_lab.generation.sampling import png
from probe_lab.json_text import read_json
from probe_lab.selection.candidates import Candidate, PromptCandidates, file_names
from probe_lab.selection.contact_sheet import contact_sheet, title_of

RECORD, SHEET, PRUNED = "selection.json", "sheet.png", "pruned"
FORMAT_VERSION = 1
_PACKAGES = ("torch", "diffusers", "transformers")


def require_writable(folder: Path) -> None:
    """SelectError, before anything is generated, for a folder that cannot be made or written in."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        write_whole(folder / f".{RECORD}", b"")
        (folder / f".{RECORD}").unlink()
    except OSError as error:
        raise _refused(folder, error) from error


def write_record(
    folder: Path, rows: Sequence[PromptCandidates], content: Mapping[str, Any], *, evaluators: Sequence[str]
) -> None:
    """Write everything, ``selection.json`` last; the sheet shows the scores by ``evaluators``.

    Finished images of pruned candidates go to ``pruned/``; those of an earlier selection in this folder go when the new
    record is there. SelectError when the disk is full or refuses the files.
    """
    names = file_names(rows)
    entries = []
    try:
        former = _former_images(folder)
        for row, files in zip(rows, names, strict=True):
            described = []
            for one, name in zip(row.candidates, files, strict=True):
                path = _image(folder, one, name)
                described.append(_entry(one, path))
            entries.append({"prompt": row.prompt, "truncated": row.truncated, "candidates": described})
        write_whole(folder / SHEET, png(contact_sheet(rows, evaluators, title_of(rows, content, evaluators))))
        head = {"format_version": FORMAT_VERSION, "versions": versions()}
        text = json.dumps({**head, **content, "prompts": entries}, indent=1, allow_nan=False) + "\n"
        write_whole(folder / RECORD, text.encode())
        for path in former - _images_of(entries):
            (folder / path).unlink(missing_ok=True)
    except OSError as error:
        raise _refused(folder, error) from error


def _former_images(folder: Path) -> set[str]:
    """The images that the record in a folder names; none where there is no record that can be read."""
    try:
        paths = _images_of(read_json((folder / RECORD).read_bytes())["prompts"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return set()
    return {path for path in paths if str(Path(path).parent) in (".", PRUNED)}


def _images_of(prompts: Sequence[Mapping[str, Any]]) -> set[str]:
    return {one["image"] for row in prompts for one in row["candidates"] if one["image"]}


def versions() -> dict[str, str]:
    """Of everything that an image may depend on."""
    found = {name: version(name) for name in _PACKAGES}
    return {"probe_lab": __version__, "python": platform.python_version(), **found}


def _image(folder: Path, one: Candidate, name: str) -> str:
    """The path of a finished image within ``folder``; empty for one that was not finished."""
    if one.image is None or not one.finished:
        return ""
    path = name if one.place is not None else f"{PRUNED}/{name}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder / path, png(one.image))
    return path


def _entry(one: Candidate, path: str) -> dict[str, Any]:
    return {
        "candidate": one.number,
        "seed": one.seed,
        "kept": one.place is not None,
        "place": one.place,
        "pruned_at_step": one.pruned,
        "predicted": {name: score if math.isfinite(score) else None for name, score in one.predicted.items()},
        "true": dict(one.true) or None,
        "image": path or None,
        "fault": one.fault,
    }


def _refused(folder: Path, error: OSError) -> SelectError:
    return SelectError(f"cannot write in {folder}: {error.strerror or error}; choose another folder with -o")
