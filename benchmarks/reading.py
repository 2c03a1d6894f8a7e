"""Samples per second of reading one of 18 arrays, beside what a user would pick instead; one process, warm.

`python -m benchmarks.reading [--samples N] [--repeats N] [--json FILE]` writes the same samples (18 arrays of
[24, 8, 8] float16 each) in every format into a temporary folder and reads one array in batches of 80:

- memcpy: the same bytes copied from memory, batch by batch, into new tensors: the ceiling
- probe_lab reader: `Cache.read`, one call per batch, into new tensors
- probe_lab shard slices: `Cache.read` of a shard at a time into a reused buffer, cut into batches
- probe_lab stream, memory: the data module; shuffled prompt groups, cast to float32, with targets and ids
- torch.save: one file per batch with all 18 arrays, read with `torch.load(weights_only=True)`
- litdata, webdataset: their own formats and readers; WebDataset skips the files of the other arrays

Every repeat times every reader once, so that a busy moment of the machine hits all of them; a ratio is the
median of the ratios within one repeat. litdata and WebDataset hold and read 1600 samples only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.caches import write_made_up
from benchmarks.output import show
from probe_lab.cache import Cache
from probe_lab.data import Batch, ProbeDataModule, SplitFractions

SHAPE = (24, 8, 8)
STEPS = (1, 5, 10)
TAPS = tuple(f"blocks.{number}/attention" for number in range(6))
STEP, TAP = 5, TAPS[3]
KEY = f"{STEP}/{TAP}"
KEYS = tuple(f"{step}/{tap}" for step in STEPS for tap in TAPS)
SEEDS, BATCH, SHARD = 8, 80, 480
SLOW = 1600  # samples that are enough to time the slow readers
MIN_SECONDS = 0.3  # of one timing: a pass of the fast readers takes a millisecond
# How many times as fast OURS has to be. It gives what the others give, stored arrays in order; the data
# module does more (shuffles, casts, adds targets), so its ratios are printed without a target.
TARGETS = {"torch.save": 20.0, "litdata": 50.0, "webdataset": 50.0, "memcpy": 0.5}
OURS = "probe_lab reader"

Batches = Iterator[Tensor]


def sample(index: int) -> Tensor:
    """All arrays of one sample, float16 [18, C, H, W]."""
    generator = torch.Generator().manual_seed(index)
    return torch.randn((len(KEYS), *SHAPE), generator=generator).half()


def write_cache(folder: Path, count: int) -> None:
    def arrays(ids: list[int]) -> dict[str, Tensor]:
        return dict(zip(KEYS, torch.stack([sample(index) for index in ids], dim=1), strict=True))

    taps = dict.fromkeys(TAPS, SHAPE)
    write_made_up(folder, taps=taps, steps=STEPS, count=count, seeds=SEEDS, shard_size=SHARD, arrays=arrays)


def write_torch(folder: Path, count: int) -> None:
    folder.mkdir()
    for start in range(0, count, BATCH):
        arrays = torch.stack([sample(index) for index in range(start, start + BATCH)], dim=1)
        torch.save({key: array.clone() for key, array in zip(KEYS, arrays, strict=True)}, folder / f"{start:06d}.pt")


def litdata_item(index: int) -> dict[str, Tensor]:
    return dict(zip(KEYS, sample(index), strict=True))


def write_litdata(folder: Path, count: int) -> None:
    import litdata

    litdata.optimize(litdata_item, list(range(count)), str(folder), num_workers=1, chunk_bytes="64MB", verbose=False)


def webdataset_name(key: str) -> str:
    return key.replace("/", "-").replace(".", "-") + ".npy"


def write_webdataset(folder: Path, count: int) -> None:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=SHARD, verbose=0) as writer:
        for index in range(count):
            arrays = zip(KEYS, sample(index), strict=True)
            names = {webdataset_name(key): array.numpy() for key, array in arrays}
            writer.write({"__key__": f"{index:06d}", **names})


def read_memcpy(source: Tensor) -> Batches:
    for start in range(0, len(source), BATCH):
        yield source[start : start + BATCH].clone()


def read_reader(cache: Cache) -> Batches:
    for shard in cache.shards:
        for start in range(0, cache.rows(shard), BATCH):
            yield cache.read(KEY, shard, slice(start, start + BATCH))


def read_shards(cache: Cache) -> Batches:
    buffer = torch.empty((SHARD, *SHAPE), dtype=torch.float16)
    for shard in cache.shards:
        yield from cache.read(KEY, shard, out=buffer[: cache.rows(shard)]).split(BATCH)


def read_module(data: ProbeDataModule) -> Batches:
    for batch in data.train_dataloader():
        assert isinstance(batch, Batch)
        yield batch.features[TAP]


def read_torch(folder: Path) -> Batches:
    for path in sorted(folder.iterdir()):
        yield torch.load(path, weights_only=True)[KEY]


def read_litdata(folder: Path, count: int) -> Batches:
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=False)
    rows: list[Tensor] = []
    for item in dataset:
        rows.append(item[KEY])
        if len(rows) == BATCH:
            yield torch.stack(rows)
            count -= len(rows)
            rows = []
        if count == 0:
            return


def read_webdataset(folder: Path, count: int) -> Batches:
    import webdataset

    name = webdataset_name(KEY)
    urls = [str(path) for path in sorted(folder.iterdir())]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, select_files=lambda file: file.endswith(name))
    rows: list[Tensor] = []
    for item in dataset.decode():
        rows.append(torch.from_numpy(item[name]))
        if len(rows) == BATCH:
            yield torch.stack(rows)
            count -= len(rows)
            rows = []
        if count == 0:
            return


@dataclass(frozen=True)
class Reader:
    name: str
    open: Callable[[], Batches]
    shuffled: bool = False


def prepare(folder: Path, count: int) -> list[Reader]:
    """Write every format, and check that every reader gives what was written."""
    slow = min(count, SLOW)
    writers: dict[str, Callable[[Path, int], None]] = {
        "cache": write_cache,
        "torch": write_torch,
        "litdata": write_litdata,
        "webdataset": write_webdataset,
    }
    for name, write in writers.items():
        wanted = count if name in ("cache", "torch") else slow
        print(f"writing {wanted} samples: {name}", flush=True)
        write(folder / name, wanted)
    cache = Cache(folder / "cache")
    source = cache.read_all(KEY)
    everything = SplitFractions(1.0, 0.0, 0.0)

    def module(residency: str) -> ProbeDataModule:
        return ProbeDataModule(
            cache,
            step=STEP,
            taps=[TAP],
            evaluators=["score"],
            batch_prompts=BATCH // SEEDS,
            fractions=everything,
            residency=residency,  # type: ignore[arg-type]
        )

    readers = [
        Reader("memcpy", partial(read_memcpy, source)),
        Reader("probe_lab reader", partial(read_reader, cache)),
        Reader("probe_lab shard slices", partial(read_shards, cache)),
        Reader("probe_lab stream", partial(read_module, module("stream")), shuffled=True),
        Reader("probe_lab memory", partial(read_module, module("memory")), shuffled=True),
        Reader("torch.save", partial(read_torch, folder / "torch")),
        Reader("litdata", partial(read_litdata, folder / "litdata", slow)),
        Reader("webdataset", partial(read_webdataset, folder / "webdataset", slow)),
    ]
    for reader in readers:
        start = 0
        for batch in reader.open():
            expected = source[start : start + BATCH]
            if not reader.shuffled and not torch.equal(batch, expected):
                raise AssertionError(f"{reader.name} gave other arrays than were written")
            start += len(batch)
        if start not in (count, slow):
            raise AssertionError(f"{reader.name} gave {start} samples of {count}")
    return readers


def rate(reader: Reader) -> float:
    """Samples per second over as many whole passes as fill MIN_SECONDS."""
    count, begin, taken = 0, time.perf_counter(), 0.0
    while taken < MIN_SECONDS:
        count += sum(len(batch) for batch in reader.open())
        taken = time.perf_counter() - begin
    return count / taken


def measure(samples: int, repeats: int) -> dict[str, object]:
    """Rates and ratios as `--json` writes them."""
    with tempfile.TemporaryDirectory(prefix="probe_lab_reading_") as folder:
        readers = prepare(Path(folder), samples)
        rates: dict[str, list[float]] = {reader.name: [] for reader in readers}
        for _ in range(repeats):
            for reader in readers:
                rates[reader.name].append(rate(reader))
    ours = [reader.name for reader in readers if reader.name.startswith("probe_lab")]
    return {
        "benchmark": "reading",
        "unit": "samples/s",
        "samples": samples,
        "repeats": repeats,
        "batch": BATCH,
        "arrays": len(KEYS),
        "shape": list(SHAPE),
        "dtype": "float16",
        "rates": {name: summary(values) for name, values in rates.items()},
        "ratios": {
            name: {other: summary(np.divide(rates[name], rates[other]).tolist()) for other in TARGETS} for name in ours
        },
        "targets": TARGETS,
        "compared": OURS,
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def table(result: dict[str, object]) -> str:
    rates, ratios = result["rates"], result["ratios"]
    assert isinstance(rates, dict)
    assert isinstance(ratios, dict)
    lines = [f"{'samples/s':<24}{'min':>12}{'median':>12}{'max':>12}"]
    for name, values in rates.items():
        lines.append(f"{name:<24}" + "".join(f"{values[key]:>12,.0f}" for key in ("min", "median", "max")))
    lines += ["", f"{'times as fast as':<24}" + "".join(f"{other:>14}" for other in TARGETS)]
    for name, others in ratios.items():
        lines.append(f"{name:<24}" + "".join(f"{others[other]['median']:>14.2f}" for other in TARGETS))
    lines.append(f"{'at least (' + OURS + ')':<24}" + "".join(f"{TARGETS[o]:>14g}" for o in TARGETS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4800, help=f"a multiple of {SHARD} (default 4800)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    if arguments.samples < SHARD or arguments.samples % SHARD:
        parser.error(f"--samples {arguments.samples} is not a multiple of {SHARD}")
    torch.set_num_threads(1)
    show(measure(arguments.samples, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()
