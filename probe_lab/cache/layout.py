"""Where the files of a cache lie, and the sidecar that makes a shard count."""

from __future__ import annotations

import builtins
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

from probe_lab.errors import CacheError

SAMPLES = "samples.parquet"
TOKEN_MASK = "token_mask"
PLACELESS = ("latent", "x0", "lookahead")
"""Arrays without a module path: their keys are ``<step>/x0``."""
FOLDERS = ("shards", "images", "text", "scores")


@dataclass(frozen=True)
class Sidecar:
    """shards/00000.json: written last, so its presence says that both files of the shard are whole.

    `bytes` and `sha256` are of the safetensors file, `images_bytes` and `images_sha256` of the images
    parquet (0 and "" in a cache without images). `keys` are the arrays of the shard; `row_crc32` is one CRC-32
    per row over all arrays, so that damage can be pinned to samples.
    """

    rows: int
    bytes: int
    sha256: str
    images_bytes: int
    images_sha256: str
    keys: tuple[str, ...]
    row_crc32: tuple[int, ...]

    def to_json(self) -> builtins.bytes:
        return (json.dumps(dataclasses.asdict(self), sort_keys=True) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> Sidecar:
        """CacheError when it cannot be read or is not a sidecar of this format."""
        try:
            values = json.loads(path.read_bytes())
            values["keys"] = tuple(values["keys"])
            values["row_crc32"] = tuple(values["row_crc32"])
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CacheError(
                f"{path} is not a readable sidecar ({error!r}): delete it, and `probe-lab "
                "generate` writes its shard again"
            ) from error


def shard_path(folder: Path, shard: int) -> Path:
    return folder / "shards" / f"{shard:05d}.safetensors"


def sidecar_path(folder: Path, shard: int) -> Path:
    return folder / "shards" / f"{shard:05d}.json"


def images_path(folder: Path, shard: int) -> Path:
    return folder / "images" / f"{shard:05d}.parquet"


def text_path(folder: Path, encoder: str) -> Path:
    return folder / "text" / f"{encoder}.safetensors"


def scores_folder(folder: Path, step: int | None = None) -> Path:
    """Of the scores of finished images, or of those of the previews at a step."""
    return folder / "scores" if step is None else folder / "previews" / str(step)


def preview_steps(folder: Path) -> list[int]:
    """Steps whose previews have been scored."""
    return sorted(int(path.name) for path in (folder / "previews").glob("*") if path.name.isdigit())


def scores_path(folder: Path, evaluator: str, step: int | None = None) -> Path:
    return scores_folder(folder, step) / f"{evaluator}.parquet"


def partial_path(folder: Path, evaluator: str, step: int | None = None) -> Path:
    """What an interrupted scoring has so far; no evaluator's name ends like this one."""
    return scores_folder(folder, step) / f"{evaluator}.partial"


def complete_shards(folder: Path) -> list[int]:
    """Shards that have a sidecar, in order."""
    return sorted(int(path.stem) for path in (folder / "shards").glob("*.json") if path.stem.isdigit())


def stems(folder: Path, suffix: str) -> list[str]:
    """Names of the finished files in one folder of the cache, without suffix, in order."""
    return sorted(path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def valid_name(name: str) -> bool:
    """Whether a text encoder or evaluator name, with its labels behind "@", is also a file name everywhere."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(@[A-Za-z0-9_.-]+)*", name) is not None
