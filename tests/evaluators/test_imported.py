"""Importing scores: any order and key, in both formats, and each wrong file told by its first row and how many."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from scored_world import COUNT, fill

from probe_lab.cache import Cache, verify, write_scores
from probe_lab.cli import app
from probe_lab.errors import ScoreError
from probe_lab.evaluators.imported import import_scores
from probe_lab.evaluators.scoring_run import score_cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "cache", [0, 1, 2], seeds=2**62)  # such seeds are no exact floats
    return tmp_path / "cache"


def table(folder: Path, *columns: str) -> pd.DataFrame:
    """All samples in another order, with scores that are a tenth of their ids."""
    samples = Cache(folder).samples.assign(score=lambda frame: frame["sample_id"] / 10)
    return samples.sample(frac=1, random_state=0)[[*columns, "score"]]


def write(frame: pd.DataFrame, file: Path) -> Path:
    if file.suffix == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file, index=False)
    return file


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
@pytest.mark.parametrize("columns", [["prompt", "seed"], ["sample_id"], ["sample_id", "prompt", "seed"]])
def test_scores_come_to_their_samples(folder: Path, tmp_path: Path, name: str, columns: list[str]) -> None:
    file = write(table(folder, *columns), tmp_path / name)
    made = import_scores(folder, file, "mine")
    assert made.text == "10 of 10 samples have a score"
    cache = Cache(folder)
    np.testing.assert_array_equal(cache.scores("mine"), np.arange(COUNT, dtype=np.float32) / np.float32(10))
    metadata = cache.score_metadata("mine")
    assert (metadata["imported"], len(metadata["sha256"])) == (name, 64)
    assert verify(folder) == []


def test_samples_without_a_row_have_no_score(folder: Path, tmp_path: Path) -> None:
    file = write(
        table(folder, "sample_id").query("sample_id != 4").rename(columns={"score": "stars"}), tmp_path / "a.csv"
    )
    made = import_scores(folder, file, "mine", column="stars")
    assert made.text == "9 of 10 samples have a score, 1 have none"
    assert np.flatnonzero(np.isnan(Cache(folder).scores("mine"))).tolist() == [4]
    assert verify(folder) == []


def test_an_import_is_not_computed_again_and_may_be_replaced(folder: Path, tmp_path: Path) -> None:
    frame = table(folder, "sample_id")
    import_scores(folder, write(frame, tmp_path / "a.csv"), "mine")
    summary = score_cache(folder, ["mine", "shapes_reward"], overwrite=True)
    assert (summary.given, summary.scored) == (("mine",), ("shapes_reward",))
    import_scores(folder, write(frame.assign(score=7), tmp_path / "b.csv"), "mine")
    assert set(Cache(folder).scores("mine")) == {7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:0], "has no rows"),
        (lambda t: t.drop(columns="score"), r"has no column 'score'.*--column"),
        (lambda t: t.drop(columns="seed"), r"columns prompt, score: needed are sample_id, or prompt and seed"),
        (
            lambda t: t.assign(seed=t["seed"] + 1),
            r"row 4 is of no sample of the cache: prompt '.*', seed \d+ \(5 of 10 rows\)",
        ),
        (lambda t: pd.concat([t, t[:2]]), r"row 11 scores sample \d again \(2 such rows\)"),
        (lambda t: t.assign(score=[0.5, None, None] + [0.5] * 7), r"row 2: the score is '.*' \(2 such rows\)"),
        (lambda t: t.assign(score=np.inf), r"row 1: the score is 'inf' \(10 such rows\)"),
        (lambda t: t.assign(score="good"), r"row 1: the score is 'good'"),
        (lambda t: t.assign(score=1e39), r"row 1: the score is '1e\+39'"),
        (lambda t: t.assign(seed=t["seed"] + 0.5), r"row 1: seed is .*, and it must be a whole number"),
        (
            lambda t: t.assign(sample_id=range(10)),
            r"row \d+ says sample \d, but its prompt and seed are those of sample",
        ),
        (
            lambda t: t.assign(sample_id=range(1, 11)),
            r"row 10 is of no sample of the cache: sample_id 10 \(1 of 10 rows\)",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_wrong_with_a_file(folder: Path, tmp_path: Path, change, message: str, ending: str) -> None:  # type: ignore[no-untyped-def]
    file = write(change(table(folder, "prompt", "seed")), tmp_path / f"mine.{ending}")
    with pytest.raises(ScoreError, match=message) as caught:
        import_scores(folder, file, "mine")
    assert "\n" not in str(caught.value)
    assert Cache(folder).evaluators() == []


@pytest.mark.parametrize("name", ["../../mine", "/tmp/mine", "a/b", "", "mine ", ".mine", "a@", "x" * 300, "mé"])
def test_what_is_no_name_is_no_file(folder: Path, tmp_path: Path, name: str) -> None:
    file = write(table(folder, "sample_id"), tmp_path / "a.csv")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ScoreError, match=r"--evaluator .* is no name: write letters, digits and"):
        import_scores(folder, file, name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--import", "a.csv", "--evaluator", "a", "--evaluator", "b"], "--evaluator is given 2 times (a and b)"),
        (["--import", "a.csv", "--import", "b.csv", "--evaluator", "a"], "--import is given 2 times (a.csv and b.csv)"),
        (["--import", "a.csv", "--evaluator", "a", "--column", "x", "--column", "y"], "--column is given 2 times"),
        (["--column", "x"], "--import FILE and --evaluator NAME belong together"),
    ],
)
def test_one_file_is_imported_at_a_time(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["score", "smoke", *words])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_files_and_names_that_cannot_be_imported(folder: Path, tmp_path: Path) -> None:
    file = write(table(folder, "sample_id"), tmp_path / "mine.csv")
    with pytest.raises(ScoreError, match=r"evaluator that `probe-lab score` computes.*clip_score_imported"):
        import_scores(folder, file, "clip_score@theirs")
    with pytest.raises(ScoreError, match="'a/b' is no name: write letters"):
        import_scores(folder, file, "a/b")
    with pytest.raises(ScoreError, match="cannot be read"):
        import_scores(folder, tmp_path / "none.csv", "mine")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ScoreError, match="cannot be read"):
        import_scores(folder, tmp_path / "bad.parquet", "mine")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(ScoreError, match="cannot be read"):
        import_scores(folder, tmp_path / "empty.csv", "mine")
    with pytest.raises(ScoreError, match=r"neither .csv nor .parquet"):
        import_scores(folder, tmp_path / "mine.xlsx", "mine")
    write_scores(folder, "own", [0], [0.5], metadata={})
    with pytest.raises(ScoreError, match="was not imported"):
        import_scores(folder, file, "own")
    assert import_scores(folder, file, "own", overwrite=True).scores == COUNT


@pytest.mark.parametrize("name", ["score", "sample_id"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_refused(folder: Path, tmp_path: Path, name: str, ending: str) -> None:
    frame, file = table(folder, "sample_id"), tmp_path / f"mine.{ending}"
    if ending == "csv":
        pd.concat([frame, frame[[name]] + 1], axis=1).to_csv(file, index=False)
    else:
        columns = [*frame.columns, name]
        pq.write_table(pa.Table.from_arrays([pa.array(frame[column]) for column in columns], columns), file)
    with pytest.raises(ScoreError, match=f"has 2 columns '{name}': rename all but one"):
        import_scores(folder, file, "mine")
    assert Cache(folder).evaluators() == []
