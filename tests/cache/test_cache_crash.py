"""Killed writers, several writers, full disks and folders that refuse files; all of them real."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cache_world import World, in_child

from probe_lab.cache import Cache, CacheWriter, verify, write_scores
from probe_lab.cache import files as cache_files
from probe_lab.errors import CacheError

_NOBODY = 65534


def _die_at(call: int) -> None:
    """Let this process kill itself, as `kill -9` does, before its `call`-th change of the disk."""
    left = call

    def deadly(change: Callable[..., object]) -> Callable[..., object]:
        def before(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments)

        return before

    for name in ("write", "fsync", "replace"):
        setattr(os, name, deadly(getattr(os, name)))


def _kill_everywhere(
    folder: Path, prepare: Callable[[World], object], action: Callable[[World], object]
) -> Iterator[World]:
    """One world for each change of the disk that `action` makes, killed just before it."""
    for call in range(200):
        world = World(folder / str(call), prompts=4)
        prepare(world)

        def run(world: World = world, call: int = call) -> str:
            _die_at(call)
            action(world)
            return "lived"

        status, text = in_child(run)
        if text == "lived":
            assert call > 5, "the kill points were not reached"
            return
        assert os.WIFSIGNALED(status), text
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield world
    pytest.fail("the action never came to its end")


def _stamps(folder: Path, pattern: str) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob(pattern)}


def test_kill_at_every_moment_of_a_shard_loses_only_that_shard(tmp_path: Path) -> None:
    left_behind = lost = 0
    worlds = _kill_everywhere(
        tmp_path, lambda world: world.write(world.writer(), 0), lambda world: world.write(world.writer(), 1)
    )
    for world in worlds:
        first = _stamps(world.folder, "00000.*")
        left_behind += bool(list(world.folder.rglob(".tmp-*")))
        complete = Cache(world.folder).shards
        assert complete in ([0], [0, 1])
        writer = world.writer()
        assert writer.pending() == [shard for shard in (0, 1) if shard not in complete]
        lost += len(writer.pending())
        for shard in writer.pending():
            world.write(writer, shard)
        assert [str(problem) for problem in verify(world.folder)] == []
        assert list(world.folder.rglob(".tmp-*")) == []
        assert _stamps(world.folder, "00000.*") == first, "a complete shard was written twice"
    assert left_behind > 5
    assert lost > 5


def test_kill_at_every_moment_of_the_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    for world in _kill_everywhere(tmp_path, lambda world: None, lambda world: world.writer()):
        assert world.writer().pending() == [0, 1]
        assert Cache(world.folder).samples.equals(world.writer().samples)
        assert list(world.folder.rglob(".tmp-*")) == []
    world.fill()
    assert [str(problem) for problem in verify(world.folder)] == []


def test_kill_while_scores_are_replaced_keeps_the_old_ones(tmp_path: Path) -> None:
    ids = list(range(8))

    def rescore(world: World) -> None:
        write_scores(world.folder, "sharp", ids, [float(value) for value in ids], metadata={"version": "2"})

    old = new = 0
    for world in _kill_everywhere(tmp_path, lambda world: world.fill(), rescore):
        cache = Cache(world.folder)
        version = cache.score_metadata("sharp")["version"]
        assert cache.scores("sharp")[7] == (1.0 if version == "1" else 7.0)
        old, new = old + (version == "1"), new + (version == "2")
    assert old > 2
    assert new > 0


def test_several_processes_fill_one_cache(tmp_path: Path) -> None:
    world = World(tmp_path / "c", prompts=24)  # 12 shards
    read, write = os.pipe()
    children = []
    for part in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(write)
                os.read(read, 1)  # the end of the pipe: all start at once, so they also race to make the manifest
                writer = world.writer()
                for shard in range(part, 12, 4):
                    world.write(writer, shard)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.close(read)
    os.close(write)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert [str(problem) for problem in verify(world.folder)] == []
    assert Cache(world.folder).shards == list(range(12))


def test_processes_with_the_same_shards_do_not_mix_files(tmp_path: Path) -> None:
    world = World(tmp_path / "c", prompts=12)  # 6 shards
    world.writer()
    children = []
    for part in range(3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # Other numbers and picture sizes in each process: mixed files cannot pass the checksums.
                writer = world.writer()
                for shard in range(6):
                    arrays = {key: array + part for key, array in world.arrays(shard).items()}
                    try:
                        writer.write_shard(shard, arrays, [b"\x89PNG\r\n\x1a\n" + b"x" * part] * 4)
                    except CacheError as error:
                        if "complete already" not in str(error):
                            raise
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
    problems = [problem for problem in verify(world.folder) if "does not decode" not in problem.message]
    assert problems == []
    assert list(world.folder.rglob(".tmp-*")) == []


def _temporary(folder: Path, process: int, machine: str, age: float = 0.0) -> Path:
    path = folder / "shards" / f".tmp-{process}-{machine}-0badcafe-00000.safetensors"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_only_abandoned_temporaries_are_removed(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    world.writer()
    here = cache_files.machine()
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    gone = [_temporary(world.folder, dead, here), _temporary(world.folder, dead, "00000000", age=2 * 86400)]
    kept = [_temporary(world.folder, os.getpid(), here), _temporary(world.folder, dead, "11111111")]
    alien = world.folder / "shards" / ".tmp-of-somebody-else"
    alien.write_bytes(b"")
    found = [problem.file for problem in verify(world.folder) if "killed writer" in problem.message]
    assert sorted(found) == sorted(f"shards/{path.name}" for path in gone)
    world.writer()
    assert [path.exists() for path in (*gone, *kept, alien)] == [False, False, True, True, True]


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _big(folder: Path) -> World:
    """Shards of about 300 kB."""
    return World(folder, steps=(1,), taps={"x0": (10, 64, 64)}, shard_size=4)


def test_limit_on_the_size_of_a_file(tmp_path: Path) -> None:
    world = _big(tmp_path / "c")

    def run() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # Python ignores SIGXFSZ: the write says EFBIG
        writer = world.writer()
        with pytest.raises(CacheError) as caught:
            world.write(writer, 0)
        return str(caught.value)

    status, text = in_child(run)
    assert status == 0, text
    assert re.search(r"00000.safetensors: File too large; nothing half-written", text)
    assert _files(world.folder) == ["manifest.json", "samples.parquet"]
    world.fill()
    assert verify(world.folder) == []


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with room for 600 kB: a real disk where mounting is allowed, else os.write says so."""
    folder = Path(tempfile.mkdtemp())
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    mounted = mount is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        write = os.write

        def full(file: int, data: memoryview) -> int:
            used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if used + len(data) > 600_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, data)

        monkeypatch.setattr(os, "write", full)
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(folder)


def test_full_disk(small_disk: Path) -> None:
    world = _big(small_disk / "c")
    writer = world.writer()
    world.write(writer, 0)
    before = _files(world.folder)
    with pytest.raises(
        CacheError, match=r"00001.safetensors: the disk is full \(.* free\).*run the same command again"
    ):
        world.write(writer, 1)
    assert _files(world.folder) == before
    assert writer.pending() == [1, 2]
    assert Cache(world.folder).read_all("1/x0").shape == (4, 10, 64, 64)


def test_full_disk_at_the_start_and_for_scores(small_disk: Path) -> None:
    world = World(small_disk / "c")
    world.fill()
    (small_disk / "ballast").write_bytes(b"x" * 300_000)
    ids = list(range(12))
    before = _files(world.folder)
    with pytest.raises(CacheError, match="the disk is full"):
        write_scores(world.folder, "new", ids, [0.5] * 12, metadata={"filler": "0123456789" * 50_000})
    assert _files(world.folder) == before
    with pytest.raises(CacheError, match="the disk is full"):
        World(small_disk / "other", prompts=5000, seeds=8, shard_size=512).writer()
    assert [path for path in _files(small_disk) if ".tmp" in path or "other/manifest" in path] == []


def test_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match=rf"cannot write in the folder {tmp_path}/file.*choose another cache.root"):
        World(tmp_path / "file" / "c").writer()
    with pytest.raises(CacheError, match=r"cannot write in the folder .*choose another cache.root"):
        World(tmp_path / "file").writer()


def _as_nobody(action: Callable[[], object]) -> str:
    def run() -> str:
        if os.geteuid() == 0:
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        with pytest.raises(CacheError) as caught:
            action()
        return str(caught.value)

    status, text = in_child(run)
    assert status == 0, text
    return text


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_folder_without_permission(mode: int) -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "cache").mkdir()
    folder.chmod(0o755)
    (folder / "cache").chmod(mode)
    try:
        for place in ("cache", "cache/below"):
            text = _as_nobody(World(folder / place).writer)
            assert f"cannot write in the folder {folder}/cache" in text
            assert "Permission denied; choose another cache.root" in text
        assert os.geteuid() != 0 or list((folder / "cache").iterdir()) == []
    finally:
        (folder / "cache").chmod(0o755)
        shutil.rmtree(folder)


def test_existing_cache_that_may_only_be_read() -> None:
    folder = Path(tempfile.mkdtemp())
    world = World(folder / "c")
    try:
        world.fill()
        for path in (folder, *world.folder.rglob("*"), world.folder):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def score() -> None:
            write_scores(world.folder, "sharp", [0], [1.0], metadata={})

        assert f"cannot write in the folder {world.folder}/scores" in _as_nobody(score)
        status, text = in_child(lambda: str(len(verify(world.folder))))
        assert (status, text) == (0, "0")
    finally:
        for path in (folder, *world.folder.rglob("*"), world.folder):
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_an_exception_of_the_caller_leaves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    writer: CacheWriter = world.writer()

    def run() -> str:
        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        os.replace = interrupt  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            world.write(writer, 0)
        return "interrupted"

    assert in_child(run) == (0, "interrupted")
    assert _files(world.folder) == ["manifest.json", "samples.parquet"]
