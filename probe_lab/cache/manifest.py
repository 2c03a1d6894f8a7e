"""manifest.json: what a cache holds and how it was made."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from probe_lab.cache.files import write_atomic
from probe_lab.errors import CacheError
from probe_lab.json_text import read_json
from probe_lab.regular_files import regular

FORMAT_VERSION = 1
IMAGES = "capture.images"
"""The entry of `extra` that is "false" where no image was drawn."""
CACHE_DTYPES = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Manifest:
    """The facts that every file of a cache agrees with.

    `taps` maps a tap string to its shape (C, H, W); every captured step has every tap. `dtype` is the dtype
    of sampling, `cache_dtype` that of the stored arrays. `count` is the number of samples, `seeds` that of
    one prompt, `height` and `width` are of the images, in pixels. `prompts_sha256` fixes the prompts and
    their order. `extra` holds further settings by the key of the experiment, only those that are not the
    default, so that older caches, which lack them, agree.
    """

    name: str
    backbone: str
    scheduler: str
    steps: int
    guidance: float
    height: int
    width: int
    dtype: str
    cache_dtype: str
    shard_size: int
    captured_steps: tuple[int, ...]
    taps: dict[str, tuple[int, ...]]
    prompts_sha256: str
    seeds: int
    count: int
    seed: int
    code_version: str
    format_version: int = FORMAT_VERSION
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cache_dtype not in CACHE_DTYPES:
            raise CacheError(f"cache.dtype={self.cache_dtype!r} is not one of {', '.join(sorted(CACHE_DTYPES))}")

    @property
    def has_images(self) -> bool:
        """False for a cache of tensors only, which was made with `capture.images=false`."""
        return self.extra.get(IMAGES) != "false"

    @property
    def pixels(self) -> int:
        """Of one image."""
        return self.width * self.height

    @property
    def array_dtype(self) -> torch.dtype:
        return CACHE_DTYPES[self.cache_dtype]

    def keys(self) -> list[str]:
        """Every array of the cache, "<step>/<tap string>", by step and then by the name of the tap."""
        return [f"{step}/{tap}" for step in self.captured_steps for tap in sorted(self.taps)]

    def shape(self, key: str) -> tuple[int, ...]:
        """(C, H, W) of one key of `keys`."""
        return self.taps[key.partition("/")[2]]

    def difference(self, other: Manifest) -> list[str]:
        """Names of the fields that differ, in the order of the class."""
        return [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def renamed(self, name: str) -> Manifest:
        """As the manifest of a folder with another name: a cache may be moved, and is the same one."""
        return dataclasses.replace(self, name=name)

    def save(self, folder: Path | str) -> None:
        """Write folder/manifest.json whole or not at all. CacheError when the disk refuses it."""
        write_atomic(
            manifest_path(folder),
            (json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n").encode(),
        )

    @classmethod
    def load(cls, folder: Path | str) -> Manifest:
        """Read folder/manifest.json. CacheError when it is missing, broken or of another format version."""
        path = manifest_path(folder)
        try:
            values = read_json(regular(path).read_bytes())
        except OSError as error:
            raise CacheError(
                f"{folder} is not a cache ({path.name}: {error.strerror}): run `probe-lab generate` to make it"
            ) from error
        except ValueError as error:
            raise CacheError(f"{path} is not valid JSON ({error}): generate the cache again") from error
        return _from_values(path, values)


def manifest_path(folder: Path | str) -> Path:
    return Path(folder) / "manifest.json"


def _from_values(path: Path, values: object) -> Manifest:
    if not isinstance(values, dict) or "format_version" not in values:
        raise CacheError(f"{path} has no format_version, so it is not the manifest of a cache")
    version = values["format_version"]
    if version != FORMAT_VERSION:
        raise CacheError(
            f"{path.parent} has format version {version}, this probe_lab reads {FORMAT_VERSION}: "
            "generate the cache again, or use the probe_lab that wrote it"
        )
    values.setdefault("extra", {})  # caches from before that field
    names = {f.name for f in dataclasses.fields(Manifest)}
    if set(values) != names:
        wrong = ", ".join(sorted(set(values) ^ names))
        raise CacheError(f"{path} lacks or has too much: {wrong}; generate the cache again")
    try:
        return _typed(values)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise CacheError(f"{path} has a value of another type ({error}): generate the cache again") from error


def _typed(values: dict[str, object]) -> Manifest:
    """Every value checked against the annotation of its field; JSON knows no tuples."""
    kinds = {"int": (int,), "float": (int, float), "str": (str,), "dict[str, str]": (dict,)}
    typed = dict(values)
    for f in dataclasses.fields(Manifest):
        allowed = kinds.get(str(f.type))
        if allowed and (not isinstance(values[f.name], allowed) or isinstance(values[f.name], bool)):
            raise TypeError(f"{f.name} is {values[f.name]!r}, not {f.type}")
    typed["guidance"] = float(values["guidance"])  # type: ignore[arg-type]
    typed["captured_steps"] = tuple(int(step) for step in values["captured_steps"])  # type: ignore[attr-defined]
    typed["taps"] = {
        tap: tuple(int(size) for size in shape)
        for tap, shape in values["taps"].items()  # type: ignore[attr-defined]
    }
    return Manifest(**typed)  # type: ignore[arg-type]
