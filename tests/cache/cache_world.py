"""A small cache with made-up content that can be recomputed, for the tests of this folder."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from probe_lab.cache import Cache, CacheWriter, Manifest, shard_layout, write_scores

TAPS = {"up.0/attention": (3, 4, 4), "mid/activation": (2, 2, 3), "x0": (4, 2, 2)}


def png(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value % 256, value // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class World:
    """Prompts x seeds samples in a folder; every array is a function of its key and sample_id."""

    folder: Path
    prompts: int = 6
    seeds: int = 2
    shard_size: int = 4
    steps: tuple[int, ...] = (1, 5)
    taps: dict[str, tuple[int, ...]] = field(default_factory=lambda: dict(TAPS))
    cache_dtype: str = "float16"

    @property
    def count(self) -> int:
        return self.prompts * self.seeds

    @property
    def samples(self) -> pd.DataFrame:
        shard, row = shard_layout(self.count, self.seeds, self.shard_size)
        prompt = np.arange(self.count) // self.seeds
        return pd.DataFrame(
            {
                "sample_id": np.arange(self.count),
                "prompt_id": prompt,
                "prompt": [f"a red circle, {value}" for value in prompt],
                "seed": 1000 + np.arange(self.count),
                "split": np.array(["train", "val", "test"])[prompt % 3],
                "shard": shard,
                "row": row,
            }
        )

    def manifest(self, **changes: object) -> Manifest:
        values: dict[str, object] = {
            "name": "world",
            "backbone": "tiny-sd",
            "scheduler": "ddim",
            "steps": 25,
            "guidance": 2.0,
            "height": 6,
            "width": 8,
            "dtype": "float32",
            "cache_dtype": self.cache_dtype,
            "shard_size": self.shard_size,
            "captured_steps": self.steps,
            "taps": self.taps,
            "prompts_sha256": "00ff",
            "seeds": self.seeds,
            "count": self.count,
            "seed": 0,
            "code_version": "1",
        }
        return Manifest(**(values | changes))  # type: ignore[arg-type]

    def writer(self) -> CacheWriter:
        return CacheWriter(self.folder, self.manifest(), self.samples)

    def ids(self, shard: int) -> list[int]:
        frame = self.samples
        return frame["sample_id"][frame["shard"] == shard].tolist()

    def array(self, key: str, ids: Sequence[int]) -> Tensor:
        """[n, C, H, W] float32."""
        shape = self.taps[key.partition("/")[2]]
        rows = []
        for sample in ids:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{key}{sample}".encode()))
            rows.append(torch.randn(shape, generator=generator))
        return torch.stack(rows)

    def arrays(self, shard: int) -> dict[str, Tensor]:
        keys, ids = self.manifest().keys(), self.ids(shard)
        return {key: self.array(key, ids) for key in keys}

    def mask(self, ids: Sequence[int]) -> Tensor:
        return torch.arange(5)[None] <= torch.tensor(ids)[:, None] % 5

    def write(self, writer: CacheWriter, shard: int) -> None:
        ids = self.ids(shard)
        writer.write_shard(shard, self.arrays(shard), [png(sample) for sample in ids], self.mask(ids))

    def fill(self) -> Cache:
        """The whole cache, with text and the scores of two evaluators."""
        writer = self.writer()
        for shard in writer.pending():
            self.write(writer, shard)
        writer.write_text("clip", {"embedding": torch.arange(self.prompts * 3.0).reshape(self.prompts, 3)})
        for evaluator in ("sharp", "shapes_reward"):
            ids = np.arange(self.count)
            write_scores(self.folder, evaluator, ids, ids / 7, metadata={"version": "1"})
        return Cache(self.folder)


class ShardDataset(Dataset[Tensor]):
    """Here and not in a test module, so that a spawned loader worker can import it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache.shards)

    def __getitem__(self, index: int) -> Tensor:
        return self.cache.read("5/x0", self.cache.shards[index])


def in_child(action: Callable[[], str]) -> tuple[int, str]:
    """Run it in a forked process; (wait status, what it returned or the error that it raised)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 3
        try:
            os.close(read)
            try:
                text, status = action(), 0
            except BaseException as error:
                text = f"{type(error).__name__}: {error}"
            _send(write, text.encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    return os.waitpid(child, 0)[1], text


_send = os.write  # kept, because some children replace os.write
