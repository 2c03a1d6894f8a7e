"""The same made-up samples in every format that `benchmarks.reading` compares, 18 arrays of float16 each.

``KEY`` is the array that is read, in batches of ``BATCH`` samples of ``BATCH / SEEDS`` prompts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.caches import write_made_up

SHAPE = (24, 8, 8)
STEPS = (1, 5, 10)
TAPS = tuple(f"blocks.{number}/attention" for number in range(6))
STEP, TAP = 5, TAPS[3]
KEY = f"{STEP}/{TAP}"
KEYS = tuple(f"{step}/{tap}" for step in STEPS for tap in TAPS)
SEEDS, BATCH, SHARD = 8, 80, 480


def sample(index: int) -> Tensor:
    """All arrays of one sample, float16 [18, C, H, W]."""
    generator = torch.Generator().manual_seed(index)
    return torch.randn((len(KEYS), *SHAPE), generator=generator).half()


def write_cache(folder: Path, count: int) -> None:
    """Ours; its shards are safetensors files, so what reads those reads the same files."""

    def arrays(ids: list[int]) -> dict[str, Tensor]:
        return dict(zip(KEYS, torch.stack([sample(index) for index in ids], dim=1), strict=True))

    taps = dict.fromkeys(TAPS, SHAPE)
    write_made_up(folder, taps=taps, steps=STEPS, count=count, seeds=SEEDS, shard_size=SHARD, arrays=arrays)


def npy_name(key: str) -> str:
    return key.replace("/", "-").replace(".", "-") + ".npy"


def write_npy(folder: Path, count: int) -> None:
    """One file per array, with all samples."""
    folder.mkdir()
    files = {key: np.lib.format.open_memmap(folder / npy_name(key), "w+", np.float16, (count, *SHAPE)) for key in KEYS}
    for index in range(count):
        for key, array in zip(KEYS, sample(index), strict=True):
            files[key][index] = array.numpy()
    for file in files.values():
        file.flush()


def write_torch(folder: Path, count: int) -> None:
    """One file per batch, with all arrays."""
    folder.mkdir()
    for start in range(0, count, BATCH):
        arrays = torch.stack([sample(index) for index in range(start, start + BATCH)], dim=1)
        torch.save({key: array.clone() for key, array in zip(KEYS, arrays, strict=True)}, folder / f"{start:06d}.pt")


def write_litdata(folder: Path, count: int) -> None:
    import litdata

    litdata.optimize(litdata_item, list(range(count)), str(folder), num_workers=1, chunk_bytes="64MB", verbose=False)


def litdata_item(index: int) -> dict[str, Tensor]:
    return dict(zip(KEYS, sample(index), strict=True))


def write_webdataset(folder: Path, count: int) -> None:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=SHARD, verbose=0) as writer:
        for index in range(count):
            arrays = zip(KEYS, sample(index), strict=True)
            names = {npy_name(key): array.numpy() for key, array in arrays}
            writer.write({"__key__": f"{index:06d}", **names})
