"""Text that is written a block at a time: the bytes of a whole write, continued after an interruption or a kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cache_world import World
from torch import Tensor

from probe_lab.cache import Cache, verify
from probe_lab.cache import text_blocks as module
from probe_lab.cache.layout import text_path
from probe_lab.cache.text_blocks import TextBlock, complete_text, in_blocks, rows_of
from probe_lab.cache.text_table import write_text
from probe_lab.errors import CacheError

PROMPTS = 6
LENGTHS = (3, 2, 5, 1, 4, 5)  # tokens of each text, so that the first block of two is widened


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world")
    world.fill()
    return world


def tokens_of(row: int) -> Tensor:
    return torch.arange(LENGTHS[row] * 4.0).view(LENGTHS[row], 4) + 100 * row


def encode(texts: list[str]) -> dict[str, Tensor]:
    """As long as the longest of the texts, which are the numbers of their rows."""
    rows = [int(text) for text in texts]
    length = max(LENGTHS[row] for row in rows)
    tokens, mask = torch.zeros(len(rows), length, 4), torch.zeros(len(rows), length, dtype=torch.bool)
    for place, row in enumerate(rows):
        tokens[place, : LENGTHS[row]] = tokens_of(row)
        mask[place, : LENGTHS[row]] = True
    return {"embedding": tokens.sum(1).half(), "tokens": tokens, "token_mask": mask}


def completed(folder: Path, encode: Callable[[list[str]], dict[str, Tensor]] = encode, **metadata: str) -> bool:
    blocks = in_blocks(rows_of(map(str, range(PROMPTS))))
    return complete_text(folder, "t5", blocks, encode, metadata={"version": "1", **metadata})


@pytest.fixture
def whole(world: World, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The file when it is written at once; then there is none, and two texts are a block."""
    write_text(
        world.folder, "t5", encode([str(row) for row in range(PROMPTS)]), prompts=PROMPTS, metadata={"version": "1"}
    )
    path = text_path(world.folder, "t5")
    data = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    return data


class Stopping:
    """Encodes so many blocks, and then does something else."""

    def __init__(self, after: int, stop: Callable[[], None]) -> None:
        self.encoded: list[str] = []
        self._left, self._stop = after, stop

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        if not self._left:
            self._stop()
        self._left -= 1
        self.encoded += texts
        return encode(texts)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_blocks_give_the_bytes_of_a_whole_write(world: World, whole: bytes) -> None:
    assert completed(world.folder)
    assert text_path(world.folder, "t5").read_bytes() == whole
    assert not completed(world.folder)
    assert completed(world.folder, version="2")
    assert verify(world.folder) == []


def test_an_interrupted_text_is_continued(world: World, whole: bytes) -> None:
    with pytest.raises(KeyboardInterrupt):
        completed(world.folder, Stopping(2, interrupt))
    assert Cache(world.folder).text_encoders() == ["clip"]
    assert verify(world.folder) == []
    rest = Stopping(9, interrupt)
    assert completed(world.folder, rest)
    assert rest.encoded == ["4", "5"]
    assert text_path(world.folder, "t5").read_bytes() == whole
    assert sorted(path.name for path in (world.folder / "text").iterdir()) == ["clip.safetensors", "t5.safetensors"]


def test_what_a_killed_process_has_stored_is_kept(world: World, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAVE_EVERY", -1.0)
    child = os.fork()
    if not child:
        completed(world.folder, Stopping(2, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    rest = Stopping(9, interrupt)
    assert completed(world.folder, rest)
    assert rest.encoded == ["4", "5"]
    assert text_path(world.folder, "t5").read_bytes() == whole


def test_what_other_settings_or_nobody_began_is_not_continued(world: World, whole: bytes) -> None:
    with pytest.raises(KeyboardInterrupt):
        completed(world.folder, Stopping(1, interrupt), version="0")
    again = Stopping(9, interrupt)
    assert completed(world.folder, again)
    assert again.encoded == [str(row) for row in range(PROMPTS)]
    assert text_path(world.folder, "t5").read_bytes() == whole
    with pytest.raises(KeyboardInterrupt):
        completed(world.folder, Stopping(0, interrupt), version="2")
    assert not text_path(world.folder, "t5").with_suffix(".partial").exists()


def test_without_locks_each_process_has_a_file_of_its_own(
    world: World, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "lock", lambda file: False)

    def meanwhile(texts: list[str]) -> dict[str, Tensor]:
        if texts == ["4", "5"]:
            assert completed(world.folder)  # by another process
        return encode(texts)

    assert completed(world.folder, meanwhile)
    assert text_path(world.folder, "t5").read_bytes() == whole
    with pytest.raises(KeyboardInterrupt):
        completed(world.folder, Stopping(2, interrupt), version="2")
    assert sorted(path.name for path in (world.folder / "text").iterdir()) == ["clip.safetensors", "t5.safetensors"]


def test_an_encoder_that_changes_its_type_is_refused(world: World, whole: bytes) -> None:
    types = iter([torch.float16, torch.float32])

    def changing(texts: list[str]) -> dict[str, Tensor]:
        return encode(texts) | {"embedding": torch.ones(len(texts), 4, dtype=next(types))}

    with pytest.raises(CacheError, match=r"gives 'embedding' as torch.float32, and .* was begun otherwise: delete it"):
        completed(world.folder, changing)


def test_rows_may_share_a_text(world: World) -> None:
    shared: TextBlock = rows_of(["0", "1", "0", "1", "1", "3"])
    assert dict(shared) == {"0": [0, 2], "1": [1, 3, 4], "3": [5]}
    complete_text(world.folder, "t5", in_blocks(shared), encode, metadata={})
    tokens = Cache(world.folder).text("t5")["tokens"]
    for row, text in enumerate([0, 1, 0, 1, 1, 3]):
        assert torch.equal(tokens[row, : LENGTHS[text]], tokens_of(text))


def test_values_that_are_not_finite_are_named(world: World, whole: bytes) -> None:
    def broken(texts: list[str]) -> dict[str, Tensor]:
        return {"embedding": torch.tensor([[torch.nan] if text == "3" else [0.0] for text in texts])}

    with pytest.raises(CacheError, match="text t5/embedding is not finite for prompt_id 3"):
        completed(world.folder, broken)
