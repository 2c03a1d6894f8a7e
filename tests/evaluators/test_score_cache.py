"""Scoring a small real cache: complete, resumed, skipped when current, the same from processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import interpreters
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from scored_world import COUNT, Mean, fill

from probe_lab.cache import Cache, write_scores
from probe_lab.cache.scores import read_partial_scores
from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import ConfigError, ScoreError
from probe_lab.evaluators import base, create, decode, passes, register
from probe_lab.evaluators.encode import encode_texts
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.shapes.captions import parse_caption
from probe_lab.shapes.rewards import rewards


class Loaded(Mean):
    """A mean with a made-up model, which knows how many of them are in memory."""

    has_model = True
    in_memory: ClassVar[set[str]] = set()
    most = loads = 0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.family = name

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        if self.name not in Loaded.in_memory:
            Loaded.in_memory.add(self.name)
            Loaded.loads += 1
        Loaded.most = max(Loaded.most, len(Loaded.in_memory))
        return super().score(images, prompts)

    def release(self) -> None:
        Loaded.in_memory.discard(self.name)


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.EVALUATORS, "_entries", dict(base.EVALUATORS._entries))


@pytest.fixture
def mean(_own_registry: None) -> Mean:
    """A registered evaluator that is the same object at every ``create("mean")``."""
    evaluator = Mean()
    register("mean", lambda settings: evaluator)
    return evaluator


@pytest.fixture
def pair(_own_registry: None) -> tuple[Loaded, Loaded]:
    """Two registered evaluators with a model each."""
    found = Loaded("one"), Loaded("two")
    for each in found:
        register(each.name, lambda settings, each=each: each)
    Loaded.in_memory, Loaded.most, Loaded.loads = set(), 0, 0
    return found


def test_every_sample_gets_its_own_score(tmp_path: Path, mean: Mean) -> None:
    pictures = fill(tmp_path, [0, 1, 2])
    progress: list[tuple[int, int]] = []
    score_cache(
        tmp_path,
        ["shapes_reward", "shapes_binding", "mean"],
        scoring=Scoring(batch_size=1),
        on_progress=lambda done, total: progress.append((done, total)),
    )
    cache = Cache(tmp_path)
    found = [
        rewards(pictures[i], parse_caption(prompt))
        for i, prompt in zip(cache.samples["sample_id"], cache.samples["prompt"], strict=True)
    ]
    assert cache.evaluators() == ["mean", "shapes_binding", "shapes_reward"]
    np.testing.assert_allclose(cache.scores("shapes_reward"), [each.shapes_reward for each in found], rtol=1e-6)
    np.testing.assert_allclose(cache.scores("shapes_binding"), [each.binding for each in found], rtol=1e-6)
    np.testing.assert_allclose(cache.scores("mean"), [pictures[i].mean() for i in range(COUNT)], rtol=1e-6)
    assert np.ptp(cache.scores("shapes_binding")) > 0.3
    assert create("shapes_reward").metadata().items() <= cache.score_metadata("shapes_reward").items()
    assert progress[0] == (0, 10)
    assert progress[-1] == (10, 10)
    assert progress == sorted(progress)
    assert mean.prepared == COUNT


def test_an_evaluator_of_ones_own_scores_in_spawned_processes(tmp_path: Path) -> None:
    pictures = fill(tmp_path, [0, 1, 2])
    score_cache(tmp_path, ["my_rewards:Warmth", "my_rewards:Warmth@again"], workers=2)
    expected = [float((pictures[i][..., 0] / 255.0 - pictures[i][..., 2] / 255.0).mean()) for i in range(COUNT)]
    for name in ("my_rewards:Warmth", "my_rewards:Warmth@again"):
        np.testing.assert_allclose(Cache(tmp_path).scores(name), expected, rtol=1e-5, atol=1e-6)
    assert score_cache(tmp_path, ["my_rewards:Warmth"]).skipped == ("my_rewards:Warmth",)
    assert base.card("my_rewards:Warmth").measures == "Red minus blue, in -1..1"
    with pytest.raises(ConfigError, match=r"'my_rewards' has no 'Warmht': did you mean 'Warmth'"):
        score_cache(tmp_path, ["my_rewards:Warmht"])


def test_a_scoring_process_that_is_killed_ends_the_scoring_in_one_sentence(tmp_path: Path) -> None:
    fill(tmp_path, [0, 1, 2])
    told = r"^a scoring process ended by signal 9 \(SIGKILL\) \(killed, or out of memory\): run the same command again$"
    with pytest.raises(ScoreError, match=told):
        score_cache(tmp_path, ["my_rewards:Deadly"], workers=2)
    assert multiprocessing.active_children() == []
    assert Cache(tmp_path).evaluators() == []


FORKED = """
import multiprocessing, sys
from pathlib import Path
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.progress import progress

def watched(done, total):
    update(done, total)
    kinds.update(type(child).__name__ for child in multiprocessing.active_children())

kinds = set()
with progress("score", "images") as update:
    score_cache(Path(sys.argv[1]), ["shapes_reward"], workers=2, on_progress=watched)
print(*kinds)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
def test_scoring_processes_of_one_thread_are_forked(tmp_path: Path) -> None:
    fill(tmp_path, [0, 1, 2])
    terminal = os.environ | {"OMP_NUM_THREADS": "1", "FORCE_COLOR": "1"}  # where the display of progress has a thread
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=terminal, check=True)
    assert done.stdout == "ForkProcess\n"
    assert np.isfinite(Cache(tmp_path).scores("shapes_reward")).all()


def test_current_scores_are_kept_and_stale_ones_replaced(tmp_path: Path, mean: Mean) -> None:
    fill(tmp_path, [0, 1, 2])
    score_cache(tmp_path, ["mean"])
    score_cache(tmp_path, ["mean", "shapes_layout"])
    assert mean.seen == COUNT
    score_cache(tmp_path, ["mean"], overwrite=True)
    assert mean.seen == 2 * COUNT
    mean.version = "2"
    score_cache(tmp_path, ["mean"])
    assert mean.seen == 3 * COUNT
    assert Cache(tmp_path).score_metadata("mean")["version"] == "2"
    write_scores(tmp_path, "mean", [0, 1], [0.5, 0.0], metadata=mean.metadata())  # incomplete
    score_cache(tmp_path, ["mean"])
    assert mean.seen == 4 * COUNT - 2
    assert Cache(tmp_path).scores("mean")[0] == 0.5
    (tmp_path / "scores" / "mean.parquet").write_bytes(b"damaged")
    score_cache(tmp_path, ["mean"])
    assert mean.seen == 5 * COUNT - 2


def test_only_complete_shards_are_scored_and_the_rest_later(tmp_path: Path) -> None:
    fill(tmp_path, [0, 2])
    score_cache(tmp_path, ["shapes_reward"])
    assert np.isnan(Cache(tmp_path).scores("shapes_reward")).tolist() == [False] * 4 + [True] * 4 + [False] * 2
    fill(tmp_path, [1])
    score_cache(tmp_path, ["shapes_reward"])
    assert np.isfinite(Cache(tmp_path).scores("shapes_reward")).all()


def test_worker_processes_give_the_same_scores(tmp_path: Path) -> None:
    fill(tmp_path / "one", [0, 1, 2])
    fill(tmp_path / "many", [0, 1, 2])
    progress: list[int] = []
    score_cache(tmp_path / "one", ["shapes_reward"])
    score_cache(tmp_path / "many", ["shapes_reward"], workers=2, on_progress=lambda done, _: progress.append(done))
    one, many = (Cache(tmp_path / name).scores("shapes_reward") for name in ("one", "many"))
    np.testing.assert_array_equal(one, many)
    assert progress[-1] == COUNT
    assert progress == sorted(progress)


def test_a_score_that_is_not_finite_names_evaluator_and_sample_and_loses_nothing(tmp_path: Path, mean: Mean) -> None:
    fill(tmp_path, [0, 1, 2])
    mean.broken = {9}
    with pytest.raises(ScoreError, match="mean gave nan to sample 9"):
        score_cache(tmp_path, ["shapes_reward", "mean"], scoring=Scoring(batch_size=1))
    assert Cache(tmp_path).evaluators() == ["shapes_reward"]
    assert mean.seen == COUNT
    score_cache(tmp_path, ["shapes_reward", "mean"])
    assert mean.seen == COUNT + 1
    assert Cache(tmp_path).evaluators() == ["mean", "shapes_reward"]
    assert not list((tmp_path / "scores").glob("*.partial"))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_have_no_score_and_the_others_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    fill(tmp_path, [0, 1, 2], broken=[3, 8])
    summary = score_cache(tmp_path, ["shapes_reward", "shapes_layout"], workers=workers)
    cache = Cache(tmp_path)
    assert np.flatnonzero(np.isnan(cache.scores("shapes_layout"))).tolist() == [3, 8]
    assert cache.score_metadata("shapes_layout")["unreadable"] == "3,8"
    assert sorted(record.args for record in caplog.records) == [(3,), (8,)]
    assert summary.unreadable == (3, 8)
    assert summary.text.endswith("2 broken images have no score")


def test_broken_images_are_looked_at_again_and_nothing_else(tmp_path: Path, mean: Mean) -> None:
    fill(tmp_path, [0, 1, 2], broken=[8])
    score_cache(tmp_path, ["mean"])
    file = tmp_path / "scores" / "mean.parquet"
    before = file.stat().st_mtime_ns
    assert score_cache(tmp_path, ["mean"]).unreadable == (8,)
    assert (mean.seen, file.stat().st_mtime_ns) == (COUNT - 1, before)
    for part in (tmp_path / "shards").glob("00002.*"):
        part.unlink()
    fill(tmp_path, [2])
    assert score_cache(tmp_path, ["mean"]).unreadable == ()
    assert mean.seen == COUNT
    assert np.isfinite(Cache(tmp_path).scores("mean")).all()
    assert "unreadable" not in Cache(tmp_path).score_metadata("mean")


def test_nothing_to_score_and_unknown_evaluators_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, [])
    with pytest.raises(ScoreError, match=r"no complete shard.*probe-lab generate"):
        score_cache(tmp_path, ["shapes_reward"])
    with pytest.raises(ConfigError, match=r"did you mean 'shapes_reward'.*--import FILE --evaluator shape_reward"):
        score_cache(tmp_path, ["shape_reward"])
    with pytest.raises(ConfigError, match=r"scoring.models.clip_scor' is of no evaluator: did you mean 'clip_score'"):
        score_cache(tmp_path, ["shapes_reward"], scoring=Scoring(models={"clip_scor": EvaluatorModel()}))


def test_one_model_is_in_memory_at_a_time_unless_resident(
    tmp_path: Path, pair: tuple[Loaded, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, [0, 1, 2])
    monkeypatch.setattr(passes, "SWAP_BYTES", 1)
    score_cache(tmp_path, ["one", "shapes_reward", "two"])
    assert (Loaded.most, Loaded.in_memory, Loaded.loads) == (1, set(), 2)
    score_cache(tmp_path, ["one", "two"], scoring=Scoring(resident=True), overwrite=True)
    assert (Loaded.most, Loaded.in_memory, Loaded.loads) == (2, {"one", "two"}, 4)
    np.testing.assert_array_equal(Cache(tmp_path).scores("one"), Cache(tmp_path).scores("two"))
    assert sum(each.prepared for each in pair) == 2 * COUNT  # alike preprocessing is done once


def test_evaluators_that_lack_different_samples_share_a_decoding(tmp_path: Path, pair: tuple[Loaded, Loaded]) -> None:
    fill(tmp_path, [0, 1, 2])
    one, two = pair
    write_scores(tmp_path, "one", range(6), np.arange(6), metadata=one.metadata())
    write_scores(tmp_path, "two", range(4, 8), np.arange(4), metadata=two.metadata())
    score_cache(tmp_path, ["one", "two"])
    assert (one.seen, two.seen) == (4, 6)
    assert one.prepared + two.prepared == 8  # neither lacks 4 and 5
    assert Cache(tmp_path).scores("one")[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert Cache(tmp_path).scores("two")[4:8].tolist() == [0, 1, 2, 3]
    assert np.isfinite(Cache(tmp_path).scores("two")).all()


def test_scores_of_another_checkpoint_are_kept_and_come_back(tmp_path: Path, mean: Mean) -> None:
    fill(tmp_path, [0, 1, 2])
    first, second = "1" * 64, "2" * 64
    mean.checkpoint_sha256 = first
    score_cache(tmp_path, ["mean"])
    mean.checkpoint_sha256 = second
    summary = score_cache(tmp_path, ["mean"])
    assert summary.text.splitlines()[0] == (
        "mean: another checkpoint is used, the former scores are kept as mean@11111111"
    )
    cache = Cache(tmp_path)
    assert cache.evaluators() == ["mean", "mean@11111111"]
    assert cache.score_metadata("mean")["checkpoint_sha256"] == second
    assert cache.score_metadata("mean@11111111")["checkpoint_sha256"] == first
    assert score_cache(tmp_path, ["mean@11111111"]).given == ("mean@11111111",)
    assert mean.seen == 2 * COUNT

    mean.checkpoint_sha256 = first
    assert "are back" in score_cache(tmp_path, ["mean"]).text
    assert mean.seen == 2 * COUNT
    assert cache.evaluators() == ["mean", "mean@22222222"]
    assert cache.score_metadata("mean")["checkpoint_sha256"] == first


def test_scores_of_two_files_are_kept_apart(tmp_path: Path, mean: Mean) -> None:
    """A head on one CLIP, on another, and on the first again: no scores are lost."""
    fill(tmp_path, [0, 1, 2])
    head, one, other = ("f" * 64, "1" * 64, "2" * 64)
    for digest in (one, other, one):
        mean.checkpoint_sha256 = f"{head} {digest}"
        score_cache(tmp_path, ["mean"])
    assert mean.seen == 2 * COUNT
    cache = Cache(tmp_path)
    assert cache.evaluators() == ["mean", "mean@ffffffff-22222222"]
    assert cache.score_metadata("mean")["checkpoint_sha256"] == f"{head} {one}"
    assert cache.score_metadata("mean@ffffffff-22222222")["checkpoint_sha256"] == f"{head} {other}"


def test_after_an_error_no_further_images_are_prepared(
    tmp_path: Path, mean: Mean, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, [0, 1, 2])
    monkeypatch.setattr(passes, "CHUNK_BYTES", 1)
    monkeypatch.setattr(decode, "_READ", 1)
    threads = threading.active_count()

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        score_cache(tmp_path, ["mean"], on_progress=stop)
    assert threading.active_count() == threads  # while the traceback still holds the frames
    assert mean.prepared < COUNT
    assert caught.value.__traceback__ is not None


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    fill(tmp_path, [0])
    scoring = Scoring(device="cudo")
    with pytest.raises(ConfigError, match=r"'scoring\.device' is 'cudo'.*name cpu"):
        score_cache(tmp_path, ["shapes_clip_score"], scoring=scoring)
    with pytest.raises(ConfigError, match=r"'scoring\.device' is 'cudo'.*name cpu"):
        encode_texts(tmp_path, "shapes_clip_score", scoring)
    score_cache(tmp_path, ["shapes_reward"], scoring=scoring)  # which needs none


def test_partial_scores_of_other_metadata_are_not_used(tmp_path: Path, mean: Mean) -> None:
    fill(tmp_path, [0, 1, 2])
    mean.broken = {4}
    with pytest.raises(ScoreError):
        score_cache(tmp_path, ["mean"], scoring=Scoring(batch_size=1))
    assert read_partial_scores(tmp_path, "mean", COUNT) is not None
    mean.version = "2"
    seen = mean.seen
    score_cache(tmp_path, ["mean"])
    assert mean.seen == seen + COUNT


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import scored_world as world
from probe_lab.evaluators import register
from probe_lab.evaluators import scoring_run as run

class Slow(world.Mean):
    def score(self, images, prompts):
        time.sleep(float(sys.argv[3]) * len(images))
        print("seen", len(images), flush=True)
        return super().score(images, prompts)

register("slow", lambda settings: Slow("slow"))
run.SAVE_EVERY = 0.0
told = []
one = run.Scoring(batch_size=1)
run.score_cache(Path(sys.argv[2]), ["slow"], scoring=one, on_progress=lambda *now: told.append(now))
print("told", told[0])
"""


def test_a_killed_scoring_continues_where_it_was(tmp_path: Path) -> None:
    pictures = fill(tmp_path, [0, 1, 2])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = ["-c", SLOW, str(Path(__file__).parent), str(tmp_path)]
    process = interpreters.Popen([*command, "0.2"], stdout=subprocess.PIPE, env=environment)
    partial = tmp_path / "scores" / "slow.partial"
    until = time.monotonic() + 300
    while not partial.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Cache(tmp_path).evaluators() == []
    found = read_partial_scores(tmp_path, "slow", COUNT)
    assert found is not None
    kept = int(np.isfinite(found[0]).sum())
    assert 0 < kept < COUNT

    again = interpreters.run([*command, "0"], env=environment)
    counts = [int(line.split()[1]) for line in again.stdout.splitlines() if line.startswith("seen")]
    assert sum(counts) == COUNT - kept
    assert again.stdout.splitlines()[-1] == f"told ({kept}, {COUNT})"
    np.testing.assert_allclose(Cache(tmp_path).scores("slow"), [pictures[i].mean() for i in range(COUNT)], rtol=1e-6)
    assert not partial.exists()
