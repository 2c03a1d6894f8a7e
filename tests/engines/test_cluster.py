"""Starting, joining and leaving Ray clusters, and requests that none can meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import interpreters
import psutil
import pytest
import ray

from probe_lab.cache import Cache, verify
from probe_lab.config import Engine, load_experiment
from probe_lab.engines import ray_cluster, require_gpus
from probe_lab.errors import ConfigError
from probe_lab.generation.generate import generate

PATIENCE = 300.0
"""Seconds: the machine may be busy."""


def ray_folders() -> set[Path]:
    return {path for parent in {"/tmp", tempfile.gettempdir()} for path in Path(parent).glob("ray_*")}


def test_a_cluster_of_our_own_ends_with_its_block_and_leaves_nothing() -> None:
    before, handler = ray_folders(), signal.getsignal(signal.SIGTERM)
    others = psutil.Process().children(recursive=True)  # multiprocessing's own tracker outlives the tests before
    with pytest.raises(KeyError), ray_cluster(Engine(name="ray", cpus=0.5)) as cluster:  # noqa: PT012
        assert signal.getsignal(signal.SIGTERM) == handler
        assert cluster.places() == cluster.places_on_one() == 2 * len(os.sched_getaffinity(0))
        assert cluster.threads == 1
        processes = [child for child in psutil.Process().children(recursive=True) if child not in others]
        assert processes
        assert len(ray_folders() - before) == 1
        raise KeyError
    assert not ray.is_initialized()
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert alive == []
    assert ray_folders() == before
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize(("cpus", "gpus", "has"), [(4096, 0, r"engine\.cpus=4096"), (1, 99, r"engine\.gpus=99")])
def test_a_request_that_no_node_can_meet_is_refused(cpus: float, gpus: float, has: str) -> None:
    before = ray_folders()
    with pytest.raises(ConfigError, match=rf"no node of the Ray cluster can hold a worker with .*{has}.*\d CPUs"):
        ray_cluster(Engine(name="ray", cpus=cpus, gpus=gpus)).__enter__()
    assert not ray.is_initialized()
    assert ray_folders() == before


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers at engine\.address=127\.0\.0\.1:1 .*ray start --head"),
        ("127.0.0.1:99999", r"no Ray cluster answers"),
        ("somewhere", r"'engine\.address' is 'somewhere': write HOST:PORT"),
        ("ray://127.0.0.1:x", r"write HOST:PORT"),
        ("auto", r"engine\.address=auto does not take this run: .*[Rr]ay"),
    ],
)
def test_a_cluster_that_does_not_answer_is_said_at_once(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where `auto` looks for a running one
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        ray_cluster(Engine(name="ray", address=address)).__enter__()
    assert time.monotonic() - began < PATIENCE / 5
    assert not ray.is_initialized()


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed: pip install 'probe_lab\[ray\]'"):
        ray_cluster(Engine(name="ray")).__enter__()


def test_shares_of_gpus_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"'engine\.gpus' is 1\.5: a worker has a share of one GPU, or whole ones"):
        ray_cluster(Engine(name="ray", gpus=1.5)).__enter__()
    with pytest.raises(ConfigError, match=r"'sampling\.device' is cuda and 'engine\.gpus' is 0"):
        require_gpus(Engine(name="ray"), "sampling.device", "cuda")
    require_gpus(Engine(name="ray", gpus=0.5), "sampling.device", "cuda")
    require_gpus(Engine(name="ray"), "sampling.device", "cpu")


def test_after_ctrl_c_nothing_is_left_and_any_engine_continues(tmp_path: Path) -> None:
    before = ray_folders()
    overrides = [
        f"cache.root={tmp_path}", "engine.name=ray", "engine.cpus=0.5",
        "prompts.count=48", "prompts.seeds=2", "cache.shard_size=4", "sampling.steps=4",
        "sampling.height=32", "sampling.width=32",
    ]  # fmt: skip
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored, where the tests run in the background
        "from probe_lab.cli import main\n"
        "main()"
    )
    command = ["-c", program, "generate", "smoke", *overrides]
    running = interpreters.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    cache = tmp_path / "smoke"
    deadline = time.monotonic() + PATIENCE
    while not list(cache.glob("shards/*.json")):
        assert running.poll() is None, running.stderr and running.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    processes = psutil.Process(running.pid).children(recursive=True)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does it
    _, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, errors
    assert "the same command continues where it stopped" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert alive == []
    assert ray_folders() == before
    assert list(tmp_path.rglob(".shared-*")) == []
    assert 0 < len(Cache(cache).shards) < 24
    rest = load_experiment("smoke", [each for each in overrides if not each.startswith("engine")])
    generate(rest, lambda done, total: None, lambda plan: None)
    assert verify(cache) == []
