"""Rows of a large tensor file are those of the whole, and a file that changed or belongs elsewhere is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from probe_lab.cache import tensors as module
from probe_lab.cache.identity import Identity
from probe_lab.cache.tensor_files import write_tensor_file
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.errors import CacheError

OWN = Identity("0" * 32, carried=True)
ARRAYS = {
    "tokens": torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "token_mask": torch.arange(21).view(7, 3) % 2 == 0,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tensor_file(tmp_path, tmp_path / "some.safetensors", ARRAYS, {"made": "here"}, OWN)
    return tmp_path / "some.safetensors"


def test_rows_are_those_of_the_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 16)  # the checksum is made of many parts
    rows = TensorRows(path.parent, path, OWN, 7)
    assert rows.metadata["made"] == "here"
    wanted = torch.tensor([[6, 0], [3, 3]])
    for name, whole in ARRAYS.items():
        assert rows.shape(name) == whole.shape
        assert torch.equal(rows.read(name, wanted), whole[wanted])
        assert rows.read(name, wanted[:0]).shape == (0, 2, *whole.shape[1:])


def test_what_is_not_the_file_is_refused(path: Path) -> None:
    with pytest.raises(CacheError, match="where 8 rows belong"):
        TensorRows(path.parent, path, OWN, 8)
    with pytest.raises(CacheError, match="belongs to another cache"):
        TensorRows(path.parent, path, Identity("1" * 32, carried=True), 7)
    with pytest.raises(CacheError, match="no array 'other': it has"):
        TensorRows(path.parent, path, OWN, 7).shape("other")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match="sha256 differs"):
        TensorRows(path.parent, path, OWN, 7)
