"""Small files of tensors in a cache, beside its shards: written whole, with their checksum and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from probe_lab.cache.files import StagedFile, disk_errors, make_folder
from probe_lab.cache.identity import Identity
from probe_lab.cache.overwriting import renewed
from probe_lab.cache.tensors import content_sha256, write_tensors

CHECKSUM = "sha256"
"""Metadata key."""


def write_tensor_file(
    folder: Path, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], identity: Identity
) -> None:
    """Store contiguous CPU tensors at ``path`` in the cache ``folder``, whole or not at all.

    CacheError when it cannot be written.
    """
    marks = identity.marks(path.relative_to(folder).as_posix())
    make_folder(path.parent)
    with disk_errors(path), StagedFile(path) as staged:
        write_tensors(staged, tensors, {**metadata, CHECKSUM: content_sha256(tensors), **marks})
        staged.seal()
        staged.commit()
    renewed(folder, path)


def tensor_file_objection(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], place: str, identity: Identity | None
) -> str:
    """Why these tensors are not the ones that were written at ``place`` of the cache; "" where nothing says so.

    An ``identity`` that is None is not compared.
    """
    return checksum_objection(content_sha256(tensors), metadata, place, identity)


def checksum_objection(sha256: str, metadata: Mapping[str, str], place: str, identity: Identity | None) -> str:
    """The same of tensors with this ``content_sha256``."""
    if identity and (objection := identity.objection(metadata, place)):
        return objection
    if sha256 != metadata.get(CHECKSUM):
        return "it changed since it was written (sha256 differs)"
    return ""
