"""Processes of this machine: what they are given, how they ask, fail and die, and that none is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from probe_lab.config import Engine
from probe_lab.engines import Ended, Said, Site, WorkerDied, WorkerSpec, local, local_worker, open_pool
from probe_lab.errors import DataError, ProbeLabError


class Odd(Exception):
    """Cannot be made from its arguments, and so not be sent."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@dataclass(frozen=True)
class Worker:
    """Does what a task says."""

    site: Site

    def do(self, task: str) -> Any:
        actions: dict[str, Callable[[], Any]] = {
            "about": self._about,
            "ask": lambda: [self.site.ask(number, "x") for number in range(3)] if self.site.ask else None,
            "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "report": self._reports,
        }
        if task in ("refuse", "break", "odd"):
            raise {"refuse": DataError("add prompts"), "break": KeyError("a bug"), "odd": Odd("a", "b")}[task]
        return actions[task]()

    def _about(self) -> dict[str, Any]:
        time.sleep(0.2)
        return {
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
            "cards": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "device": self.site.device("cuda:3"),
            "beside": self.site.beside,
        }

    def _reports(self) -> Generator[int, None, str]:
        yield 1
        yield 2
        return "done"


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever threads other tests have left; and no worker outlives a test."""
    monkeypatch.setattr(local, "start_context", lambda **how: multiprocessing.get_context("fork"))
    yield
    assert multiprocessing.active_children() == []


def ended(spec: WorkerSpec, *tasks: str) -> dict[str, Ended]:
    with open_pool(Engine(), spec) as pool:
        return {event.task: event for event in pool.run({"": tasks}) if isinstance(event, Ended)}


def test_reports_come_before_the_result() -> None:
    with open_pool(Engine(), WorkerSpec(Worker, 1)) as pool:
        events = list(pool.run({"": ["report"]}))
        assert events == [Said("report", 1), Said("report", 2), Ended("report", value="done")]
        assert pool.one("report") == "done"
        with pytest.raises(DataError, match=r"^add prompts$"):
            pool.one("refuse")


def test_a_dead_worker_costs_its_task_and_an_error_no_worker() -> None:
    events = ended(WorkerSpec(Worker, 1, if_killed="; lower workers"), "refuse", "break", "odd", "die", "about")
    errors = {task: event.error for task, event in events.items()}
    assert type(errors["refuse"]) is DataError
    assert isinstance(errors["break"], KeyError)
    assert "in do" in errors["break"].__notes__[0]
    assert str(errors["odd"]) == "Odd: a b"
    assert isinstance(errors["die"], WorkerDied)
    assert str(errors["die"]) == "its worker process ended by signal 9 (SIGKILL); lower workers"
    assert errors["about"] is None


def test_this_process_takes_part_with_the_first_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    device = frozenset({("sampling.device", "cuda")})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with open_pool(Engine(), WorkerSpec(Worker, 2, devices=device, takes_part=True)) as pool:
            about = [value for _, value in pool.results({"": ["about"] * 6})]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    here = {"pid": os.getpid(), "threads": 1, "cards": "2,5", "device": "cuda:3", "beside": 2}
    (other,) = {each["pid"] for each in about} - {os.getpid()}
    there = here | {"pid": other, "cards": "5", "device": "cuda"}
    assert all(each in (here, there) for each in about)
    assert here in about


@pytest.mark.parametrize("takes_part", [False, True])
def test_questions_are_answered_in_this_process(takes_part: bool) -> None:
    me = (os.getpid(), threading.get_ident())
    spec = WorkerSpec(
        Worker, 2, answer=lambda number, text: (f"{text}{number}", os.getpid(), threading.get_ident()),
        takes_part=takes_part,
    )  # fmt: skip
    with open_pool(Engine(), spec) as pool:
        values = [value for _, value in pool.results({"": ["ask"] * 8})]
    assert values == [[("x0", *me), ("x1", *me), ("x2", *me)]] * 8


@dataclass(frozen=True)
class Unready:
    """Is never made."""

    error: Exception | None
    log: Path

    def __call__(self, site: Site) -> Worker:
        with open(self.log, "a") as log:
            log.write("x")
        if self.error:
            raise self.error
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.parametrize(
    ("error", "starts", "told"),
    [
        (DataError("no such file"), 1, r"^no such file$"),
        (MemoryError(), 3, r"^3 local workers ended before they were ready, the last with exit code 0: memory ran out"),
        (None, 3, r"^3 local workers ended before they were ready, the last by signal 9 \(SIGKILL\): see their"),
    ],
)
def test_workers_that_never_get_ready_are_given_up(
    tmp_path: Path, error: Exception | None, starts: int, told: str
) -> None:
    log = tmp_path / "log"
    with open_pool(Engine(), WorkerSpec(Unready(error, log), 1)) as pool, pytest.raises(ProbeLabError, match=told):
        pool.one("about")
    assert log.read_text() == "x" * starts


@pytest.mark.parametrize("moment", ["as it begins", "before a task", "within a task"])
def test_a_worker_that_nobody_hears_any_more_ends_without_a_word(
    moment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its parent was killed: what it would have sent is not an error of the worker's."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    ended = context.Event()

    def wait(site: Site) -> Any:
        ours.close()  # the child's copy
        if moment == "as it begins":
            ended.wait(60)
        return Waiting(ended)

    process = context.Process(target=local_worker.work, args=(theirs, wait, Site(1), 1, False))
    process.start()
    theirs.close()
    if moment != "as it begins":
        ours.recv()
    if moment == "within a task":
        ours.send("wait")
    ours.close()
    ended.set()
    process.join(60)
    assert process.exitcode == 0
    assert capfd.readouterr().err == ""


@dataclass(frozen=True)
class Waiting:
    """Has its result once nobody hears it."""

    ended: Any

    def do(self, task: str) -> bool:
        return bool(self.ended.wait(60))
