"""What of a cache a cell was trained on, and whether the cache still holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from probe_lab.cache import Cache, sha256_of
from probe_lab.cache.layout import PreviewOf, scores_path, text_path
from probe_lab.data.scalars import Scalar
from probe_lab.data.splits import RULE
from probe_lab.errors import CacheError


class InputChecksums(TypedDict):
    """``inputs`` of ``metrics.json``: the id of the cache, the samples of its complete shards, and the sha256 of each
    file of scores or text that was read, by its place in the cache. Cells of before hold less."""

    cache: str
    samples: int
    scores: dict[str, str]
    text: dict[str, str]


def read_inputs(
    cache: Cache,
    evaluators: Sequence[str],
    step: int,
    previews: Sequence[Scalar],
    text_encoder: str | None = None,
    judged: Sequence[Path] = (),
) -> InputChecksums:
    """Of a cell that reads the scores of ``evaluators``, some ``previews`` of ``step``, the text of an encoder, and
    files of ``judged`` scores; files that are not there are left out."""
    paths = [scores_path(cache.folder, evaluator) for evaluator in evaluators]
    paths += [scores_path(cache.folder, each.evaluator, PreviewOf(step, each.latent)) for each in previews]
    paths += judged
    texts = [] if text_encoder is None else [text_path(cache.folder, text_encoder)]
    return InputChecksums(
        cache=cache.identity.id,
        samples=len(cache.complete_samples),
        scores=_checksums(cache.folder, paths),
        text=_checksums(cache.folder, texts),
    )


def _checksums(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths if path.is_file()}


def is_split_otherwise(metrics: Mapping[str, Any]) -> bool:
    """Whether a cell with these ``metrics`` was trained on splits of a former rule: before there was a second, cells
    recorded inputs and no ``splits``."""
    return bool(metrics.get("inputs")) and metrics.get("splits", 1) != RULE


class CachesNow:
    """What caches hold, each looked at and each file hashed once."""

    def __init__(self) -> None:
        self._caches: dict[Path, tuple[str, int]] = {}
        self._sha256: dict[Path, str] = {}

    def changes(self, folder: Path, recorded: Mapping[str, Any] | None) -> list[str]:
        """What is no longer as a cell recorded it, in words; nothing where it recorded nothing.

        A cache or a file that is gone has not changed: nothing could be trained on it.
        """
        identity, samples = self._held(folder) if recorded else ("", 0)
        if not recorded or not samples:
            return []
        if recorded.get("cache", identity) != identity:
            return [f"{folder} was generated anew, with other settings or prompts"]
        found = []
        if (then := recorded.get("samples", samples)) != samples:
            found.append(f"{folder} has {samples} samples instead of {then}")
        for kind in ("scores", "text"):
            paths = {folder / place: digest for place, digest in recorded.get(kind, {}).items()}
            found += [f"{path} has other {kind}" for path, digest in paths.items() if self._differs(path, digest)]
        return found

    def outdated(self, folder: Path, metrics: Mapping[str, Any]) -> list[str]:
        """``changes`` since a cell with these ``metrics``, and whether its prompts were split by another rule."""
        found = self.changes(folder, metrics.get("inputs"))
        if is_split_otherwise(metrics) and self._held(folder)[1]:
            found.append(f"the prompts of {folder} are split by what they say")
        return found

    def _held(self, folder: Path) -> tuple[str, int]:
        """The id of a cache and its samples; 0 where there is no cache, or none that can be read."""
        if folder not in self._caches:
            try:
                cache = Cache(folder)
                self._caches[folder] = cache.identity.id, len(cache.complete_samples)
            except CacheError:
                self._caches[folder] = "", 0
        return self._caches[folder]

    def _differs(self, path: Path, digest: str) -> bool:
        if path not in self._sha256 and path.is_file():
            self._sha256[path] = sha256_of(path)
        return self._sha256.get(path, digest) != digest
