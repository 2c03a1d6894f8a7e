"""text/<encoder>.safetensors: what one text encoder makes of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from probe_lab.cache.identity import Identity, callers
from probe_lab.cache.layout import text_path, valid_name
from probe_lab.cache.opened import open_cache
from probe_lab.cache.tensor_files import write_tensor_file
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.cache.tensors import OpenFile, first_not_finite
from probe_lab.errors import CacheError

AGAIN = "delete it, and `probe-lab generate` (for text.encoder `probe-lab score`) writes it again"


def write_text(
    folder: Path,
    encoder: str,
    tensors: Mapping[str, Tensor],
    *,
    prompts: int,
    metadata: Mapping[str, str] | None = None,
    of_labels: bool = False,
) -> None:
    """Store the file whole or not at all, row p for prompt_id p of ``prompts``, or for row p of the captions.

    "embedding" [P, D], "tokens" [P, L, D], "token_mask" [P, L], "truncated" [P] (whether the text encoder
    cut the prompt). Dtypes are kept; ``metadata`` goes into the file beside its checksum and the identity of the cache.
    CacheError when there is no cache, a row count is not the number of prompts or a value is not finite.
    """
    require_encoder(encoder)
    if not tensors:
        raise CacheError(f"there is nothing to store for the text encoder {encoder}: give it at least an embedding")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    what = "captions" if of_labels else "prompts"
    for name, tensor in stored.items():
        if tensor.dim() == 0 or len(tensor) != prompts:
            raise CacheError(
                f"text {encoder}/{name} has the shape {tuple(tensor.shape)}, and the cache has {prompts} {what}"
            )
    require_finite(encoder, stored, range(prompts))
    write_tensor_file(
        folder, text_path(folder, encoder, of_labels=of_labels), stored, metadata or {}, open_cache(folder).identity
    )


def require_encoder(encoder: str) -> None:
    """CacheError for the name of a text encoder that cannot be a file's."""
    if not valid_name(encoder):
        raise CacheError(f"text encoder name {encoder!r} cannot be a file name: use letters, digits, '.', '_', '-'")


def require_finite(encoder: str, tensors: Mapping[str, Tensor], rows: Sequence[int]) -> None:
    """CacheError for the first of the ``rows`` of the file whose text is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            row = rows[first_not_finite(tensor)]
            raise CacheError(f"text {encoder}/{name} is not finite for prompt_id {row}")


def text_metadata(folder: Path, encoder: str, identity: Identity, *, of_labels: bool = False) -> dict[str, str] | None:
    """What ``write_text`` was told of the encoder, or None: there is no such file, or it is damaged or another's."""
    if text_objection(folder, encoder, identity, of_labels=of_labels):
        return None
    return callers(OpenFile(str(text_path(folder, encoder, of_labels=of_labels))).header.metadata)


def read_text(folder: Path, encoder: str, identity: Identity, prompts: int, *, of_labels: bool = False) -> TensorRows:
    """The arrays of a text encoder. CacheError when they are missing, changed, or of another cache or encoder."""
    path = text_path(folder, encoder, of_labels=of_labels)
    return TensorRows(folder, path, identity, prompts, again=AGAIN)


def text_objection(folder: Path, encoder: str, identity: Identity, *, of_labels: bool = False) -> str:
    """Why the text of an encoder is not this cache's, told from the head of its file; "" where nothing says so."""
    path = text_path(folder, encoder, of_labels=of_labels)
    try:
        metadata = OpenFile(str(path)).header.metadata
    except CacheError as error:
        return str(error)
    return identity.objection(metadata, path.relative_to(folder).as_posix())
