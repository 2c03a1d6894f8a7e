"""How worker processes start, live and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import interpreters
import pytest

from probe_lab.processes import (
    begin_worker,
    cores,
    ending,
    environment,
    interrupts_held,
    start_context,
    terminated_as_interrupt,
    visible_cards,
)


def test_only_a_process_without_threads_of_its_own_or_others_is_forked() -> None:
    assert start_context(on_cpu=True, threads=2).get_start_method() == "spawn"
    assert start_context(on_cpu=False, threads=1).get_start_method() == "spawn"
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    try:
        assert start_context(on_cpu=True, threads=1).get_start_method() == "spawn"
    finally:
        done.set()


_DEEP = """
import torch
from probe_lab.processes import start_context

class Deep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, depth):
        ctx.depth = depth
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        if ctx.depth:
            with torch.enable_grad():
                differentiate(ctx.depth - 1)
        return gradient, None

def differentiate(depth):
    Deep.apply(torch.ones(1, requires_grad=True), depth).backward()

differentiate(0)
print(start_context(on_cpu=True, threads=1).get_start_method())
differentiate(200)  # PyTorch goes on in a thread of its own, as it does for the gradients of a card
print(start_context(on_cpu=True, threads=1).get_start_method())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
def test_a_process_whose_autograd_has_threads_is_not_forked() -> None:
    done = interpreters.run(["-c", _DEEP])
    assert done.stdout.split() == ["fork", "spawn"]


def test_cards_are_those_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-1a")
    assert visible_cards() == ["3", "GPU-1a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_cards() == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux gives a process some cores")
def test_cores_are_those_that_the_process_was_given() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)


def test_an_ending_has_a_name_where_its_signal_has_one() -> None:
    assert ending(3) == "with exit code 3"
    assert ending(-9) == "by signal 9 (SIGKILL)"
    assert ending(-40) == "by signal 40 (unknown)"


UNGUARDED = """
from probe_lab.processes import ending, spawn_context

process = spawn_context().Process(target=print, args=["done"])
process.start()
process.join()
print(ending(process.exitcode))
"""


def test_a_script_that_its_workers_read_again_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert 'put the calls of the script below `if __name__ == "__main__":`' in result.stdout
    assert result.stderr == ""
    body = UNGUARDED.partition("process =")
    script.write_text(
        f'{body[0]}if __name__ == "__main__":\n    {"".join(body[1:]).replace(chr(10), chr(10) + "    ")}'
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["done", "with exit code 0"]


SCORES = """
from probe_lab.config import Engine
from probe_lab.engines import WorkerSpec, deaths_as, local, open_pool
from probe_lab.errors import ScoreError
from probe_lab.processes import spawn_context

local.start_context = lambda **how: spawn_context()  # a forked worker does not read the script

class Absolute:
    def __init__(self, site):
        self.do = abs

spec = WorkerSpec(Absolute, 2, called="a scoring process")
with deaths_as(ScoreError), open_pool(Engine(), spec) as pool:
    print(list(pool.results({None: [1, -2]})))
"""


def test_scoring_by_such_a_script_ends_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCORES)
    result = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    lines = [line for line in result.stderr.splitlines() if "Error" in line and not line.startswith(" ")]
    assert lines[-1].startswith("probe_lab.errors.ScoreError: a scoring process ended because it read the script")
    assert "bootstrapping" not in result.stderr


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_LAB_A", "1")
    monkeypatch.delenv("PROBE_LAB_B", raising=False)
    with environment({"PROBE_LAB_A": "2", "PROBE_LAB_B": "3"}):
        assert (os.environ["PROBE_LAB_A"], os.environ["PROBE_LAB_B"]) == ("2", "3")
    assert os.environ["PROBE_LAB_A"] == "1"
    assert "PROBE_LAB_B" not in os.environ


def _live() -> None:
    begin_worker()
    os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C is not for it
    time.sleep(60)


def test_a_worker_that_is_ended_while_it_starts_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """It would answer SIGTERM as its parent does, by an exception, before its own handlers are set."""
    with terminated_as_interrupt():
        for _ in range(20):
            with interrupts_held():
                process = get_context("fork").Process(target=_live)
                process.start()
            process.terminate()
            process.join(20)
            assert process.exitcode == -signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_a_forked_worker_ends_by_its_own_handlers() -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: os._exit(3))
    try:
        process = get_context("fork").Process(target=_live)
        process.start()
        time.sleep(0.5)
        assert process.is_alive()
        process.terminate()
        process.join(10)
        assert process.exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
