"""text/<encoder>.safetensors: what one text encoder makes of each prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from probe_lab.cache.files import StagedFile, disk_errors, make_folder
from probe_lab.cache.layout import text_path, valid_name
from probe_lab.cache.tensors import OpenFile, content_sha256, first_not_finite, write_tensors
from probe_lab.errors import CacheError


def write_text(
    folder: Path,
    encoder: str,
    tensors: Mapping[str, Tensor],
    *,
    prompts: int,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Store the file whole or not at all, row p for prompt_id p of ``prompts``.

    "embedding" [P, D], "tokens" [P, L, D], "token_mask" [P, L], "truncated" [P] (whether the text encoder
    cut the prompt). Dtypes are kept; ``metadata`` goes into the file beside its checksum. CacheError when a row count
    is not the number of prompts or a value is not finite.
    """
    if not valid_name(encoder):
        raise CacheError(f"text encoder name {encoder!r} cannot be a file name: use letters, digits, '.', '_', '-'")
    if not tensors:
        raise CacheError(f"there is nothing to store for the text encoder {encoder}: give it at least an embedding")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in stored.items():
        if tensor.dim() == 0 or len(tensor) != prompts:
            raise CacheError(
                f"text {encoder}/{name} has the shape {tuple(tensor.shape)}, and the cache has {prompts} prompts"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CacheError(f"text {encoder}/{name} is not finite for prompt_id {first_not_finite(tensor)}")
    path = text_path(folder, encoder)
    make_folder(path.parent)
    with disk_errors(path), StagedFile(path) as staged:
        write_tensors(staged, stored, {**(metadata or {}), "sha256": content_sha256(stored)})
        staged.seal()
        staged.commit()


def text_metadata(folder: Path, encoder: str) -> dict[str, str] | None:
    """What ``write_text`` was told of the encoder, or None: there is no such file, or it is damaged."""
    try:
        return OpenFile(str(text_path(folder, encoder))).header.metadata
    except CacheError:
        return None
