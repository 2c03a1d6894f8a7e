"""Says which settings of an experiment a cache was not made with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from probe_lab.cache.manifest import Manifest
from probe_lab.errors import CacheError

KEYS = {
    "name": "cache.name",
    "backbone": "backbone",
    "scheduler": "sampling.scheduler",
    "steps": "sampling.steps",
    "guidance": "sampling.guidance",
    "height": "sampling.height",
    "width": "sampling.width",
    "dtype": "sampling.dtype",
    "cache_dtype": "cache.dtype",
    "shard_size": "cache.shard_size",
    "captured_steps": "capture.steps",
    "taps": "capture.taps",
    "prompts_sha256": "the sha256 of all prompts",
    "seeds": "prompts.seeds",
    "count": "the number of samples",
    "seed": "seed",
    "format_version": "the format version",
}
"""What a person sets, or reads, for a field of the manifest. Entries of ``extra`` are keys already."""


def require_same(folder: Path, stored: Manifest, wanted: Manifest) -> None:
    """Raise ``CacheError`` with every key that differs and both values; only the code version may differ."""
    differences = list(_differences(stored, wanted))
    if differences:
        listed = ", ".join(f"{key} (cache: {_text(old)}, experiment: {_text(new)})" for key, old, new in differences)
        raise CacheError(
            f"the cache {folder} does not match the experiment in {listed}: give the experiment the values of the "
            "cache, or choose another cache.name"
        )


def _differences(stored: Manifest, wanted: Manifest) -> Iterator[tuple[str, object, object]]:
    for name in stored.difference(wanted):
        old, new = getattr(stored, name), getattr(wanted, name)
        if name == "code_version":
            continue
        if name in ("taps", "extra"):
            prefix, absent = ("capture.taps ", "absent") if name == "taps" else ("", "default")
            for entry in sorted(old | new):
                if old.get(entry) != new.get(entry):
                    yield prefix + entry, old.get(entry, absent), new.get(entry, absent)
        else:
            yield KEYS[name], old, new


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a checksum: enough to see that it is another one
