"""judges/<seed>/: the weights of a picture judge that was trained on the labels of a cache, and what it says of it.

``weights.safetensors`` holds its tensors, and in the metadata all that decided them; ``<step>.safetensors`` its
``scores`` float32 [samples, 2E], by E evaluators of the decoded x₀ and then of the finished picture, NaN in shards that
are not complete. ``training.partial`` is a training that was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from probe_lab.cache.identity import Identity, callers
from probe_lab.cache.layout import judge_path
from probe_lab.cache.tensor_files import tensor_file_objection, write_tensor_file
from probe_lab.cache.tensors import load_tensors
from probe_lab.errors import CacheError

AGAIN = "run `probe-lab judge` again"


class JudgeFiles:
    """The files of the judge of one ``seed`` in the cache ``folder``; ``file`` is "weights", "training" or a step."""

    def __init__(self, folder: Path, identity: Identity, seed: int) -> None:
        self._folder, self._identity, self._seed = folder, identity, seed

    def path(self, file: str | int) -> Path:
        """Where a file is, or would be."""
        return judge_path(self._folder, self._seed, file)

    def write(self, file: str | int, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Replace a file, whole or not at all. CacheError when it cannot be written."""
        write_tensor_file(self._folder, self.path(file), tensors, metadata, self._identity)

    def read(self, file: str | int) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata. CacheError when the file is missing, damaged, or of another cache."""
        path = self.path(file)
        if not path.exists():
            raise CacheError(f"the cache {self._folder} has no {path.relative_to(self._folder)}: run `probe-lab judge`")
        tensors, metadata = load_tensors(str(path))
        place = path.relative_to(self._folder).as_posix()
        if objection := tensor_file_objection(tensors, metadata, place, self._identity):
            raise CacheError(f"{path} is not what belongs there: {objection}; {AGAIN}")
        return tensors, callers(metadata)

    def read_if_made_by(self, file: str | int, made_by: Mapping[str, str]) -> dict[str, Tensor] | None:
        """Tensors of a file that is there, whole, and made by these settings; else None."""
        try:
            tensors, metadata = self.read(file)
        except CacheError:
            return None
        return tensors if made_by.items() <= metadata.items() else None
