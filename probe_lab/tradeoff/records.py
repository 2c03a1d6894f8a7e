"""``tradeoff.parquet`` and ``tradeoff_pairs.parquet`` in the runs folder of an experiment: format, writer, reader."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from probe_lab import __version__
from probe_lab.cache.files import StagedFile
from probe_lab.cache.tables import UNREADABLE, read_table, table_metadata
from probe_lab.errors import ReportError, nearest
from probe_lab.json_text import read_json
from probe_lab.runs.files import stored_digest
from probe_lab.tradeoff.thinning import Left, Thinning
from probe_lab.tradeoff.way_names import BASES, IN_ANY_STEPS, PLANS, QUESTIONS, WAYS, Basis, Question, Way

ROWS = "tradeoff.parquet"
PAIRS = "tradeoff_pairs.parquet"
FORMAT_VERSION = "3"
_DIGEST = "digest"

_ROWS = pa.schema(
    [
        ("way", pa.string()),
        ("candidates", pa.int64()),
        ("keep", pa.int64()),
        ("steps", pa.int64()),
        ("schedule", pa.string()),
        ("calls", pa.float64()),
        ("seconds", pa.float64()),
        ("seconds_low", pa.float64()),
        ("seconds_high", pa.float64()),
        ("score", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("flops", pa.float64()),
        ("budget", pa.int64()),
    ]
)
_PAIRS = pa.schema(
    [
        ("first", pa.string()),
        ("second", pa.string()),
        ("candidates", pa.int64()),
        ("question", pa.string()),
        ("difference", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("calls_first", pa.float64()),
        ("calls_second", pa.float64()),
        ("seconds_first", pa.float64()),
        ("seconds_second", pa.float64()),
        ("basis", pa.string()),
        ("p", pa.float64()),
        ("budget", pa.int64()),
    ]
)


@dataclass(frozen=True)
class TradeoffRow:
    """One way with N ``candidates``, of which ``keep`` are finished in ``steps`` sampling steps.

    ``schedule``: cuts as "step:kept", parted by commas, "" where nothing is cut. ``calls``: denoiser calls per prompt,
    counted per image, mean over prompts. ``seconds``, ``seconds_low``, ``seconds_high``: median, minimum and maximum
    over timed rounds of the wall-clock per prompt, NaN where it was not timed. ``score``, ``lower``, ``upper``: mean
    true score of the kept image, with its 95 % interval over prompts. ``flops``: floating-point operations per prompt
    of everything that PyTorch computes, a multiplication and an addition being two; NaN where they were not counted.
    ``budget``: the calls that a plan was made for, 0 of other ways.

    Raises ReportError for an unknown way, no candidates, calls or a score that are not finite, or times that are not
    above 0.
    """

    way: Way
    candidates: int
    keep: int
    steps: int
    schedule: str
    calls: float
    seconds: float
    seconds_low: float
    seconds_high: float
    score: float
    lower: float
    upper: float
    flops: float = math.nan
    budget: int = 0

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ReportError(f"'{self.way}' is no way of selecting: {nearest(self.way, WAYS)}")
        if self.candidates < 1:
            raise ReportError(f"{self.way} has {self.candidates} candidates: give 1 or more")
        if not (math.isfinite(self.calls) and self.calls > 0 and math.isfinite(self.score)):
            raise ReportError(
                f"{self.text} has {self.calls} calls and the score {self.score}: both must be finite, calls above 0"
            )
        if any(value <= 0 for value in (self.seconds, self.seconds_low, self.seconds_high)):
            raise ReportError(
                f"{self.text} took {self.seconds} s: give seconds above 0, or NaN where nothing was timed"
            )

    @property
    def text(self) -> str:
        """ "probe, N = 20, cut 5:1": what it is called where several ways are named."""
        return way_text(self.way, str(self.candidates), self.steps, self.schedule, self.budget)

    @property
    def timed(self) -> bool:
        return not math.isnan(self.seconds)


def way_text(way: Way, candidates: str, steps: int, schedule: str = "", budget: int = 0) -> str:
    """What a way with so many candidates is called, see ``TradeoffRow.text``."""
    sampled = f", {steps} steps" if way in IN_ANY_STEPS else ""
    cut = f", cut {schedule}" if schedule else ""
    planned = f" for {budget} calls" if budget else ""
    return f"{WAYS[way].label}{planned}, N = {candidates}{sampled}{cut}"


def way_name(text: str) -> str:
    """Of what ``way_text`` made, the way, and its steps where it is sampled in fewer: "fewer steps, 10 steps". Plans
    for any number of calls, in whatever steps, are one way."""
    name, _, details = text.partition(", N = ")
    for label in (WAYS[way].label for way in PLANS):
        if name.startswith(label):
            return label
    return ", ".join([name, *(detail for detail in details.split(", ") if detail.endswith(" steps"))])


@dataclass(frozen=True)
class Pair:
    """Two ways over the same prompts. ``first`` and ``second`` are ``TradeoffRow.text``, ``difference`` the mean true
    score of the first minus that of the second, with its paired 95 % interval over prompts.

    ``candidates`` are those of the first; ``basis`` is what both have as much of. Calls and seconds as in
    ``TradeoffRow``. ``p``: of no difference, adjusted by Holm over all pairs of this question and basis, NaN where
    nothing varies. ``budget``: of the first, where it is a plan. Raises ReportError for an unknown question or basis.
    """

    first: str
    second: str
    candidates: int
    question: Question
    difference: float
    lower: float
    upper: float
    calls_first: float
    calls_second: float
    seconds_first: float
    seconds_second: float
    basis: Basis = "candidates"
    p: float = math.nan
    budget: int = 0

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ReportError(f"'{self.basis}' is no basis of a comparison: {nearest(self.basis, BASES)}")
        if self.question not in QUESTIONS:
            raise ReportError(f"'{self.question}' is no question of a comparison: {nearest(self.question, QUESTIONS)}")


@dataclass(frozen=True)
class About:
    """What was measured on. ``seeds``: per prompt. ``cells``: names of the probes. ``machine``: its CPU and threads.
    ``version``: of this package. ``thinning``: how much the cascade's probe leaves, and how that was chosen."""

    evaluator: str
    prompts: int
    seeds: int
    backbone: str
    sampling: str
    cells: tuple[str, ...]
    machine: str
    version: str = __version__
    thinning: Thinning | None = None


@dataclass(frozen=True)
class Tradeoff:
    """One measurement: a row per way and N, the paired differences, and what all of it was measured on."""

    rows: tuple[TradeoffRow, ...]
    pairs: tuple[Pair, ...]
    about: About

    def save(self, folder: Path) -> None:
        """Write both files into ``folder``, a runs folder, which is made where it is missing.

        Both are complete on the disk before either takes its name, so that a failure leaves the old ones. ReportError
        when the disk is full or the folder refuses them.
        """
        # Both carry the same digest: a crash between the two renames is seen when they are read.
        metadata = _metadata(self.about)
        metadata["probes"] = json.dumps({name: stored_digest(folder / name) for name in self.about.cells})
        metadata[_DIGEST] = _digest(self.rows, self.pairs, metadata)
        tables = {ROWS: _table(self.rows, _ROWS, metadata), PAIRS: _table(self.pairs, _PAIRS, metadata)}
        with _writing(folder), contextlib.ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            files = [(stack.enter_context(StagedFile(folder / name)), table) for name, table in tables.items()]
            for staged, table in files:
                pq.write_table(table, staged, write_page_checksum=True)
                staged.seal()
            for staged, _ in files:
                staged.commit()

    @classmethod
    def load(cls, folder: Path) -> Tradeoff | None:
        """What ``save`` wrote into ``folder``; None where neither file is there.

        Raises ReportError when one of the two is missing, of another version, of another measurement, damaged, or
        measured with other probes than lie in ``folder``.
        """
        paths = folder / ROWS, folder / PAIRS
        if not any(path.exists() for path in paths):
            return None
        (rows, metadata), (pairs, others) = _read(paths[0], _ROWS), _read(paths[1], _PAIRS)
        if metadata != others:
            raise ReportError(f"{paths[0]} and {paths[1]} are of two measurements: {_again(folder)}")
        try:
            read = tuple(TradeoffRow(**row) for row in rows), tuple(Pair(**pair) for pair in pairs)
            found = cls(*read, _about(metadata))
            probes = dict(read_json(metadata.get("probes", "{}")))
        except (KeyError, ValueError, TypeError, ReportError) as error:
            raise _broken(paths[0], error) from error
        if "probes" in metadata and metadata[_DIGEST] != _digest(*read, metadata):
            raise ReportError(
                f"{paths[0]} or {paths[1]} changed since it was written (sha256 differs): {_again(folder)}"
            )
        for name, digest in probes.items():
            if digest and digest != stored_digest(folder / name):
                raise ReportError(
                    f"{paths[0]} was measured with another {name} than lies beside it, it is of before or of another "
                    f"runs folder: {_again(folder)}"
                )
        return found


def _digest(rows: Sequence[TradeoffRow], pairs: Sequence[Pair], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that both files say."""
    said = [[dataclasses.asdict(row) for row in rows], [dataclasses.asdict(pair) for pair in pairs]]
    said.append([{**metadata, _DIGEST: ""}])
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _table(records: Iterable[TradeoffRow | Pair], schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Table:
    return pa.Table.from_pylist([dataclasses.asdict(record) for record in records], schema.with_metadata(metadata))


def _metadata(about: About) -> dict[str, str]:
    texts = {name: str(value) for name, value in dataclasses.asdict(about).items()}
    thinning = dataclasses.asdict(about.thinning) if about.thinning else None
    encoded = {"cells": json.dumps(about.cells), "thinning": json.dumps(thinning)}
    return {"format_version": FORMAT_VERSION, **texts, **encoded}


def _about(metadata: Mapping[str, str]) -> About:
    texts = {name: metadata[name] for name in ("evaluator", "backbone", "sampling", "machine", "version")}
    counts = {name: int(metadata[name]) for name in ("prompts", "seeds")}
    thinning = read_json(metadata["thinning"])
    if thinning is not None:
        thinning = Thinning(**{**thinning, "tried": tuple(Left(**left) for left in thinning["tried"])})
    return About(**texts, **counts, cells=tuple(read_json(metadata["cells"])), thinning=thinning)  # type: ignore[arg-type]


def _read(path: Path, schema: pa.Schema) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of one file, and its metadata."""
    try:
        table = read_table(path)
        metadata = table_metadata(table)
        version = metadata.get("format_version", "none")
        if version == FORMAT_VERSION:
            return table.select(schema.names).cast(schema).to_pylist(), metadata
    except UNREADABLE as error:
        raise _broken(path, error) from error
    raise ReportError(f"{path} is of version {version} and this is version {FORMAT_VERSION}: {_again(path.parent)}")


def _broken(path: Path, error: Exception) -> ReportError:
    return ReportError(f"{path} cannot be read ({error}): {_again(path.parent)}")


def _again(folder: Path) -> str:
    return f"run `probe-lab tradeoff {folder.name}` again, or delete both files"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = (
            "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another folder with runs=FOLDER"
        )
        raise ReportError(
            f"cannot write in {folder}: {error.strerror or error}; {advice} and run the same command again"
        ) from error
