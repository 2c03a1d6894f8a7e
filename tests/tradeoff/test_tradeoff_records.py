"""The files of a measured trade-off: what is written is read again, whole or not at all."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from probe_lab import __version__
from probe_lab.cache.files import StagedFile
from probe_lab.cache.tables import table_metadata
from probe_lab.errors import ReportError
from probe_lab.tradeoff import QUESTIONS, WAYS, About, Pair, Tradeoff, TradeoffRow
from probe_lab.tradeoff.records import PAIRS, ROWS, way_name
from probe_lab.tradeoff.thinning import Left, Thinning

NAN = float("nan")
ROW = TradeoffRow("progressive", 10, 1, 25, "2:6,5:3,10:1", 84.0, NAN, NAN, NAN, 0.9, 0.88, 0.92)
TIMED = TradeoffRow("probe", 10, 1, 25, "5:1", 70.25, 1.25, 1.0, 1.5, 0.875, 0.85, 0.9)
PAIR = Pair(ROW.text, TIMED.text, 10, "progressive", 0.025, -0.01, 0.06, 84.0, 70.25, NAN, 1.25)
ABOUT = About("shapes_reward", 60, 50, "tiny-sd", "25 steps, ddim, 64×64", ("cnn-5-a", "cnn-2-b"), "a CPU, 2 threads")
ABOUT = dataclasses.replace(ABOUT, thinning=Thinning(0.5, 40, 8, (Left(2, 0.8, 0.02, 0.01), Left(4, 0.82, 0.0, 0.0))))
FOUND = Tradeoff((ROW, TIMED), (PAIR,), ABOUT)


def _same(a: Any, b: Any) -> bool:
    """Equal, where NaN equals NaN."""
    return repr(a) == repr(b)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    FOUND.save(tmp_path)
    read = Tradeoff.load(tmp_path)
    assert read is not None
    assert _same(read, FOUND)
    assert math.isnan(read.rows[0].seconds)
    assert [row.timed for row in read.rows] == [False, True]


def test_every_way_and_question_can_be_written_and_an_empty_list_too(tmp_path: Path) -> None:
    rows = tuple(dataclasses.replace(TIMED, way=way) for way in WAYS)
    pairs = tuple(dataclasses.replace(PAIR, question=question) for question in QUESTIONS)
    for found in (Tradeoff(rows, pairs, ABOUT), Tradeoff((), (), ABOUT)):
        found.save(tmp_path)
        assert _same(Tradeoff.load(tmp_path), found)


def test_both_files_open_with_any_reader_and_say_what_they_are_of(tmp_path: Path) -> None:
    FOUND.save(tmp_path)
    for name, record in ((ROWS, ROW), (PAIRS, PAIR)):
        table = pq.read_table(tmp_path / name)
        assert table.column_names == [field.name for field in dataclasses.fields(record)]
        metadata = table_metadata(table)
        assert metadata["format_version"] == "3"
        assert metadata["version"] == __version__
        assert (metadata["prompts"], metadata["seeds"], metadata["evaluator"]) == ("60", "50", "shapes_reward")
        assert metadata["cells"] == '["cnn-5-a", "cnn-2-b"]'


def test_without_files_there_is_nothing(tmp_path: Path) -> None:
    assert Tradeoff.load(tmp_path) is None
    assert Tradeoff.load(tmp_path / "missing") is None


def test_a_failure_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FOUND.save(tmp_path)
    seal, sealed = StagedFile.seal, []

    def full(staged: StagedFile) -> None:
        seal(staged)
        sealed.append(staged)
        if len(sealed) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(StagedFile, "seal", full)
    with pytest.raises(ReportError, match=r"cannot write in .*No space left on device; make room and run the same"):
        Tradeoff((TIMED,), (), ABOUT).save(tmp_path)
    assert len(sealed) == 2
    assert _same(Tradeoff.load(tmp_path), FOUND)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ROWS, PAIRS]


def test_files_of_two_measurements_are_refused(tmp_path: Path) -> None:
    """A crash between the two renames leaves this."""
    FOUND.save(tmp_path)
    old = (tmp_path / PAIRS).read_bytes()
    Tradeoff((TIMED,), (PAIR,), ABOUT).save(tmp_path)
    (tmp_path / PAIRS).write_bytes(old)
    with pytest.raises(ReportError, match=r"are of two measurements: run `probe-lab tradeoff .*` again"):
        Tradeoff.load(tmp_path)


@pytest.mark.parametrize("name", [ROWS, PAIRS])
def test_another_version_is_refused(tmp_path: Path, name: str) -> None:
    FOUND.save(tmp_path)
    table = pq.read_table(tmp_path / name)
    for metadata, version in (({**table.schema.metadata, b"format_version": b"1"}, "1"), (None, "none")):
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / name)
        with pytest.raises(ReportError, match=rf"{name} is of version {version} and this is version 3: run `probe-lab"):
            Tradeoff.load(tmp_path)


@pytest.mark.parametrize("name", [ROWS, PAIRS])
def test_a_missing_or_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    FOUND.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    pq.write_table(pq.read_table(path).drop_columns(["lower"]), path)
    for broken in (path.read_bytes(), content[: len(content) // 2], b""):
        path.write_bytes(broken)
        with pytest.raises(
            ReportError, match=rf"{name} cannot be read .*: run `probe-lab tradeoff .* delete both files"
        ):
            Tradeoff.load(tmp_path)
    path.unlink()
    with pytest.raises(ReportError, match=rf"{name} cannot be read"):
        Tradeoff.load(tmp_path)


def test_metadata_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    FOUND.save(tmp_path)
    for name in (ROWS, PAIRS):
        table = pq.read_table(tmp_path / name)
        kept = {key: value for key, value in table.schema.metadata.items() if key != b"prompts"}
        pq.write_table(table.replace_schema_metadata(kept), tmp_path / name)
    with pytest.raises(ReportError, match=r"cannot be read \('prompts'\)"):
        Tradeoff.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"way": "prob"}, "'prob' is no way of selecting: did you mean 'probe'"),
        ({"candidates": 0}, "probe has 0 candidates: give 1 or more"),
        ({"calls": 0.0}, "has 0.0 calls and the score 0.875: both must be finite"),
        ({"score": NAN}, "has 70.25 calls and the score nan: both must be finite"),
        ({"seconds": 0.0}, "took 0.0 s: give seconds above 0, or NaN"),
    ],
)
def test_a_row_that_means_nothing_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ReportError, match=said):
        dataclasses.replace(TIMED, **change)


def test_a_pair_has_one_of_the_questions() -> None:
    with pytest.raises(ReportError, match="'beats_all' is no question of a comparison: did you mean"):
        dataclasses.replace(PAIR, question="beats_all")
    with pytest.raises(ReportError, match="'call' is no basis of a comparison: did you mean 'calls'"):
        dataclasses.replace(PAIR, basis="call")


def test_rows_have_a_name_for_people() -> None:
    assert ROW.text == "several cuts, N = 10, cut 2:6,5:3,10:1"
    assert dataclasses.replace(TIMED, way="fewer_steps", steps=7, schedule="").text == "fewer steps, N = 10, 7 steps"
    assert [way_name(text) for text in ("fewer steps, N = 4.2, 7 steps", ROW.text, "probe, then lookahead, N = 8")] == [
        "fewer steps, 7 steps", "several cuts", "probe, then lookahead",
    ]  # fmt: skip
