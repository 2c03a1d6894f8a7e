"""Where the files of a cache lie, and the sidecar that makes a shard count."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from probe_lab.cache.faults import FAULTS, Fault
from probe_lab.errors import CacheError
from probe_lab.json_text import read_json
from probe_lab.regular_files import regular
from probe_lab.safe_names import MOST_BYTES

SAMPLES = "samples.parquet"
TOKEN_MASK = "token_mask"
LOOKAHEAD = "lookahead"
PLACELESS = ("latent", "x0", LOOKAHEAD)
"""Arrays without a module path: their keys are ``<step>/x0``."""
DECODED = ("x0", LOOKAHEAD)
"""Those of them that are decoded and scored."""
TINY = "tiny"
"""The preview of the predicted x₀ that a tiny autoencoder decodes, instead of the backbone's own."""
PREVIEW_WORDS = {"x0": "preview", LOOKAHEAD: "lookahead", TINY: "tiny_preview"}
"""The previews, and what their scores are called: ``preview:<evaluator>``."""
PREVIEWED = tuple(PREVIEW_WORDS)
"""The scores of the first lie in ``previews/<step>`` itself."""
LABELS = "labels"
RENOISED = "renoised"
JUDGES = "judges"
LabelsOf = int | Literal["images"]
"""Which pictures labels are of: what the x0 of a step decodes to, or the finished images."""
FINISHED: Literal["images"] = "images"
FOLDERS = ("shards", "images", "text", "scores")


def decoded_array(preview: str) -> str:
    """The array that a preview, an entry of ``PREVIEWED``, is decoded from."""
    return "x0" if preview == TINY else preview


class PreviewOf(NamedTuple):
    """The pictures that one latent of one step decodes to, for all samples: ``x0``, ``lookahead``, or ``tiny``."""

    step: int
    latent: str = PREVIEWED[0]

    @property
    def array(self) -> str:
        """The key of what is decoded."""
        return f"{self.step}/{decoded_array(self.latent)}"

    @property
    def word(self) -> str:
        """As in ``probe.scalars``."""
        return PREVIEW_WORDS[self.latent]


AskedPreviews = Mapping[PreviewOf, Sequence[str]]
"""Evaluators that are to score previews."""


@dataclass(frozen=True)
class Sidecar:
    """shards/00000.json: written last, so its presence says that both files of the shard are whole.

    `bytes` and `sha256` are of the safetensors file, `images_bytes` and `images_sha256` of the images
    parquet (0 and "" in a cache without images). `keys` are the arrays of the shard; `row_crc32` is one CRC-32
    per row over all arrays, so that damage can be pinned to samples. `faults` are the rows whose image is no
    picture of its prompt; a shard without any has no such entry. `array_crc32` has, per array, the CRC-32 of each of
    its rows as eight hex digits, one after the other: what is read is compared with it. `cache` is the id of the cache,
    and `shard` the number. Older sidecars have none of these three.
    """

    rows: int
    bytes: int
    sha256: str
    images_bytes: int
    images_sha256: str
    keys: tuple[str, ...]
    row_crc32: tuple[int, ...]
    faults: Mapping[int, Fault] = field(default_factory=dict)
    array_crc32: dict[str, str] = field(default_factory=dict)
    cache: str = ""
    shard: int = -1

    def to_json(self) -> builtins.bytes:
        values = dataclasses.asdict(self)
        del values["faults"]
        if self.faults:  # keys of JSON are texts, in the order of which the digest is
            values["faults"] = {str(row): fault for row, fault in self.faults.items()}
        return (json.dumps(values | {"digest": _digest(values)}, sort_keys=True) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> Sidecar:
        """CacheError when it cannot be read or is not a sidecar of this format."""
        try:
            return _sidecar(read_json(regular(path).read_bytes()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CacheError(
                f"{path} is not a readable sidecar ({error!r}): delete it, and `probe-lab "
                "generate` writes its shard again"
            ) from error


def _faults(values: Mapping[str, Fault], rows: int) -> dict[int, Fault]:
    """By row. ValueError for a row that the shard lacks, or another word."""
    faults = {int(row): fault for row, fault in values.items()}
    for row, fault in faults.items():
        if not 0 <= row < rows or fault not in FAULTS:
            raise ValueError(f"row {row} of {rows} is {fault!r}")
    return faults


def _digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of all that a sidecar says."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


_PLAIN = {
    "rows": int,
    "bytes": int,
    "sha256": str,
    "images_bytes": int,
    "images_sha256": str,
    "cache": str,
    "shard": int,
}


def _sidecar(values: Any) -> Sidecar:
    """ValueError, TypeError or KeyError for what is no sidecar."""
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    digest = values.pop("digest", None)
    if digest not in (None, _digest(values)):
        raise ValueError("it changed since it was written")
    values = {"array_crc32": {}, "cache": "", "shard": -1} | values
    for name, kind in _PLAIN.items():
        if type(values[name]) is not kind:
            raise TypeError(f"{name} is {values[name]!r}")
    lists = {"keys": str, "row_crc32": int}
    for name, kind in lists.items():
        if not isinstance(values[name], list) or any(type(item) is not kind for item in values[name]):
            raise TypeError(f"{name} is no list of {kind.__name__}")
        values[name] = tuple(values[name])
    if len(values["row_crc32"]) != values["rows"]:
        raise ValueError(f"it has {len(values['row_crc32'])} checksums for {values['rows']} rows")
    checks = values["array_crc32"]
    if not isinstance(checks, dict) or any(
        not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{8 * values['rows']}}}", text)
        for text in checks.values()
    ):
        raise ValueError("array_crc32 does not hold eight hex digits for each row")
    if checks and set(checks) != set(values["keys"]):
        raise ValueError("array_crc32 is of other arrays than keys")
    values["faults"] = _faults(values.get("faults", {}), values["rows"])
    return Sidecar(**values)


def shard_path(folder: Path, shard: int) -> Path:
    return folder / "shards" / f"{shard:05d}.safetensors"


def sidecar_path(folder: Path, shard: int) -> Path:
    return folder / "shards" / f"{shard:05d}.json"


def images_path(folder: Path, shard: int) -> Path:
    return folder / "images" / f"{shard:05d}.parquet"


def text_path(folder: Path, encoder: str, *, of_labels: bool = False) -> Path:
    """Of the text of the prompts, or of that of all captions of ``labels``."""
    place = folder / LABELS if of_labels else folder
    return place / "text" / f"{encoder}.safetensors"


def captions_path(folder: Path) -> Path:
    return folder / LABELS / "captions.parquet"


def labels_path(folder: Path, evaluator: str, of: LabelsOf, *, partial: bool = False) -> Path:
    """``partial``: what an interrupted labelling has so far."""
    return folder / LABELS / str(of) / f"{evaluator}{'.partial' if partial else '.safetensors'}"


def renoised_folder(folder: Path) -> Path:
    return folder / LABELS / RENOISED


def renoised_path(folder: Path, number: int, shard: int) -> Path:
    """Of the pictures of a shard that were noised again with fresh noise of this number."""
    return renoised_folder(folder) / str(number) / f"{shard:05d}.safetensors"


def labelled(folder: Path) -> dict[LabelsOf, list[str]]:
    """The pictures that have labels, with the evaluators that gave them."""
    steps = sorted(int(path.name) for path in (folder / LABELS).glob("*") if is_number(path.name))
    places: list[LabelsOf] = [*steps, FINISHED]
    found = {of: stems(folder / LABELS / str(of), ".safetensors") for of in places}
    return {of: names for of, names in found.items() if names}


def judge_path(folder: Path, seed: int, file: str | int) -> Path:
    """Of a picture judge: "weights", what it says at a step, or the "training" that was interrupted."""
    return folder / JUDGES / str(seed) / f"{file}{'.partial' if file == 'training' else '.safetensors'}"


def judged_steps(folder: Path) -> dict[str, str]:
    """By seed, the steps at which a picture judge has scored the samples: "3, 5"."""
    seeds = sorted(int(path.name) for path in (folder / JUDGES).glob("*") if is_number(path.name))
    files = {seed: stems(folder / JUDGES / str(seed), ".safetensors") for seed in seeds}
    steps = {seed: sorted(int(name) for name in names if is_number(name)) for seed, names in files.items()}
    return {str(seed): ", ".join(map(str, judged)) for seed, judged in steps.items() if judged}


def scores_folder(folder: Path, of: PreviewOf | None = None) -> Path:
    """Of the scores of finished images, or of those of previews."""
    if of is None:
        return folder / "scores"
    previews = folder / "previews" / str(of.step)
    return previews if of.latent == PREVIEWED[0] else previews / of.latent


def scored_previews(folder: Path) -> list[PreviewOf]:
    """The previews that have been scored."""
    steps = sorted(int(path.name) for path in (folder / "previews").glob("*") if is_number(path.name))
    found = [PreviewOf(step, latent) for step in steps for latent in PREVIEWED]
    return [of for of in found if stems(scores_folder(folder, of), ".parquet")]


def scores_path(folder: Path, evaluator: str, of: PreviewOf | None = None) -> Path:
    return scores_folder(folder, of) / f"{evaluator}.parquet"


def partial_path(folder: Path, evaluator: str, of: PreviewOf | None = None) -> Path:
    """What an interrupted scoring has so far; no evaluator's name ends like this one."""
    return scores_folder(folder, of) / f"{evaluator}.partial"


def complete_shards(folder: Path) -> list[int]:
    """Shards that have a sidecar, in order."""
    return numbers(folder / "shards", ".json")


def numbers(folder: Path, suffix: str) -> list[int]:
    """The shards that have a finished file in one folder of the cache, in order."""
    return sorted(int(name) for name in stems(folder, suffix) if is_number(name) and name == f"{int(name):05d}")


def is_number(name: str) -> bool:
    """Whether it is written in the digits 0 to 9, and few enough to be a number of a shard or a step."""
    return name.isascii() and name.isdigit() and len(name) < 20


def stems(folder: Path, suffix: str) -> list[str]:
    """Names of the finished files in one folder of the cache, without suffix, in order."""
    return sorted(path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def valid_name(name: str) -> bool:
    """Whether a text encoder or evaluator name, ``module:class`` or with labels behind "@", is also a file name."""
    fits = len(name) <= MOST_BYTES
    return fits and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_.]+)?(@[A-Za-z0-9_.-]+)*", name) is not None
