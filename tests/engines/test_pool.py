"""Pools of real actors: lost work is done again, errors are not, and nodes that see other files are refused."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from engine_world import Scripted, scripts

from probe_lab.engines import (
    Cluster,
    Ended,
    Event,
    Lost,
    Said,
    SharedFile,
    WorkerDied,
    WorkerSpec,
    same_file,
    token_in,
)
from probe_lab.engines.ray_pool import RayPool
from probe_lab.errors import ConfigError, DataError


def pool_of(cluster: Cluster, folder: Path, size: int = 1, shared: Sequence[SharedFile] = ()) -> RayPool:
    return RayPool(cluster, WorkerSpec(partial(Scripted, folder), size), shared)


def run(cluster: Cluster, folder: Path, groups: dict[str, list[str]], size: int = 1) -> list[Event]:
    with pool_of(cluster, folder, size) as pool:
        return list(pool.run(groups))


def test_what_a_dead_worker_was_doing_is_done_again_and_errors_are_not(cluster: Cluster, tmp_path: Path) -> None:
    tasks = ["about", "die once", "refuse", "break", "easy"]
    found = run(cluster, tmp_path, {"": tasks})
    ends = {each.task: each.error for each in found if isinstance(each, Ended)}
    assert list(ends) == tasks
    assert [ends[task] for task in ("about", "die once", "easy")] == [None] * 3
    assert type(ends["refuse"]) is DataError  # ours keep their class and their words
    assert str(ends["refuse"]) == "this batch is empty: add prompts"
    assert "a bug" in str(ends["break"])
    about = {"threads": 1, "folder": os.getcwd(), "cards": ""}
    assert [each.value for each in found if each.task == "about" and isinstance(each, Said)] == [
        about, "first", "second",
    ]  # fmt: skip
    once = [each for each in found if each.task == "die once"]
    assert once[-3:] == [Said("die once", "first"), Said("die once", "second"), Ended("die once")]
    assert once.count(Lost("die once")) == 1
    log = scripts(tmp_path)
    assert [task for _, task in log] == ["about", "die once", "die once", "refuse", "break", "easy"]
    assert [process for process, _ in log] == [log[0][0]] * 2 + [log[-1][0]] * 4


def test_a_task_that_kills_three_workers_fails(cluster: Cluster, tmp_path: Path) -> None:
    with pool_of(cluster, tmp_path) as pool:
        assert pool.one("easy") == "second"
        with pytest.raises(WorkerDied, match=r"^3 Ray workers died at it, the last because its process died$"):
            pool.one("die")
    assert [task for _, task in scripts(tmp_path)] == ["easy", "die", "die", "die"]


def test_a_worker_stays_with_its_group_and_idle_ones_help(cluster: Cluster, tmp_path: Path) -> None:
    groups = {"a": ["a0", "a1 after b0", "a2 after a4", "a3", "a4", "a5"], "b": ["b0", "b1", "b2"]}
    run(cluster, tmp_path, groups, size=2)
    tasks: dict[str, list[str]] = defaultdict(list)
    for process, task in scripts(tmp_path):
        tasks[process].append(task[0])
    assert sorted("".join(sorted(set(kinds), key=kinds.index)) for kinds in tasks.values()) == ["a", "ba"]
    assert all(kinds == sorted(kinds, key=kinds.index) for kinds in tasks.values())  # nobody goes back and forth
    assert len(scripts(tmp_path)) == 9


def test_a_node_that_does_not_see_a_folder_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    missing = SharedFile(tmp_path / "runs", tmp_path / "runs" / "token", "1")
    message = rf"does not see the folder {tmp_path}/runs: .* that all nodes share"
    with (
        pool_of(cluster, tmp_path, shared=[missing]) as pool,
        pytest.raises(ConfigError, match=message),
    ):
        pool.one("easy")
    assert not (tmp_path / "log").exists()


def test_tokens_and_files_are_told_from_others(tmp_path: Path) -> None:
    with token_in(tmp_path / "not" / "there") as token:
        token.require("here")
        token.path.write_text("another cluster's")
        with pytest.raises(ConfigError, match=r"the node here does not see the folder .*/not/there"):
            token.require("here")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "manifest.json").write_text("{}")
    copied = same_file(tmp_path / "manifest.json")
    copied.require("here")
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"the node n7 does not see"):
        copied.require("n7")
