from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from probe_lab.config import EvaluatorModel
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Settings
from probe_lab.evaluators.checkpoints import Checkpoint, is_present, load_strictly, locate

FILES = ("first.safetensors", "second.bin")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def settings(checkpoint: str = "", base: str = "") -> Settings:
    return Settings("clip_score", EvaluatorModel(checkpoint=checkpoint, base=base))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline machine whose hub cache holds one file of weights and its config: the snapshot's folder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--some--clip_224.openai"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    torch.save({"a": torch.ones(2)}, snapshot / "second.bin")
    (snapshot / "config.json").write_text("{}")
    return snapshot


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".pth"])
@pytest.mark.parametrize("nested", [False, True])
def test_tensors_of_every_format(tmp_path: Path, suffix: str, nested: bool) -> None:
    if suffix == ".safetensors" and nested:
        pytest.skip("a safetensors file holds tensors only")
    path, weights = tmp_path / f"model{suffix}", {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if nested else weights, path)
    found = Checkpoint(path).tensors()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_files_of_old_torch_versions(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert Checkpoint(tmp_path / "old.bin").tensors()["a"].tolist() == [0, 1, 2]


class Runs:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new", [True, False])
def test_foreign_code_is_not_run(tmp_path: Path, new: bool) -> None:
    path, made = tmp_path / "evil.pt", tmp_path / "made"
    torch.save({"a": torch.ones(1), "b": Runs(made)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ScoreError, match="more than tensors"):
        Checkpoint(path).tensors()
    assert not made.exists()
    if new:
        torch.load(path, weights_only=False)
        assert made.exists()  # it would have been run


@pytest.mark.parametrize("wanted", ["./nothere", "~/nothere", "../nothere", "/nothere"])
def test_folders_by_their_path_are_not_looked_for_on_the_hub(wanted: str) -> None:
    with pytest.raises(ScoreError, match=r"does not exist"):
        locate(Settings("clip_score", EvaluatorModel(checkpoint=wanted)), ["weights.pt"])


def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "ViT-B-16.pt")
    with pytest.raises(ScoreError, match=r"TorchScript.*openai/clip-vit-base-patch16"):
        Checkpoint(tmp_path / "ViT-B-16.pt").tensors()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt", "empty.pt", "empty.safetensors", "text.pt"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file({"a": torch.ones(500)}, path) if path.suffix == ".safetensors" else torch.save(
        {"a": torch.ones(500)}, path
    )
    content = {"cut": path.read_bytes()[:700], "empty": b"", "text": b"<html>Not found</html>"}[path.stem]
    path.write_bytes(content)
    with pytest.raises(ScoreError, match=name):
        Checkpoint(path).tensors()


@pytest.mark.parametrize("content", [{}, [torch.ones(1)], {"epoch": 1}, {"state_dict": {"epoch": 1}}])
def test_no_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ScoreError, match="holds no tensors"):
        Checkpoint(tmp_path / "odd.pt").tensors()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ScoreError, match=r"plain\.bin"):
        Checkpoint(tmp_path / "plain.bin").tensors()


def test_load_strictly_copies() -> None:
    model = nn.Linear(2, 3)
    weights = {"weight": torch.full((3, 2), 2.0, dtype=torch.float16), "bias": torch.ones(3)}
    load_strictly(model, weights, Path("x.pt"))
    assert model.weight.tolist() == [[2, 2]] * 3
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bias": None}, r"1 missing \(bias\)"),
        ({"extra": torch.ones(1)}, r"1 unexpected \(extra\)"),
        ({"bias": torch.ones(2)}, r"1 of another shape \(bias \[2\] instead of \[3\]\)"),
        ({f"k{i}": torch.ones(1) for i in range(9)}, r"9 unexpected \(k0, k1, k2, k3, k4, and 4 more\)"),
    ],
)
def test_load_strictly_names_the_first_differences(change: dict[str, torch.Tensor | None], told: str) -> None:
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    weights = {"weight": torch.ones(3, 2), "bias": torch.ones(3)} | change
    with pytest.raises(ScoreError, match=rf"x\.pt is not of Linear.*{told}"):
        load_strictly(model, {key: value for key, value in weights.items() if value is not None}, Path("x.pt"))
    assert torch.equal(model.weight, before)


def test_locate_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "second.bin").touch()
    assert locate(settings(str(tmp_path / "second.bin")), FILES).path == tmp_path / "second.bin"
    assert locate(settings(str(tmp_path)), FILES).path == tmp_path / "second.bin"
    (tmp_path / "first.safetensors").touch()
    assert locate(settings(str(tmp_path)), FILES).path == tmp_path / "first.safetensors"
    assert locate(settings(base=str(tmp_path)), FILES, "base").path == tmp_path / "first.safetensors"


@pytest.mark.parametrize("wanted", ["", "missing/model.pt", "/nowhere/clip", "a/b/c"])
def test_a_missing_checkpoint_says_where_to_get_it(wanted: str) -> None:
    with pytest.raises(ScoreError, match=r"scoring\.models\.clip_score\.checkpoint.*huggingface.co/openai"):
        locate(settings(wanted), FILES)
    with pytest.raises(ScoreError, match=r"no base: set scoring\.models\.clip_score\.base.*weights: there"):
        locate(settings(wanted), FILES, "base", "there")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"none of first\.safetensors, second\.bin"):
        locate(settings(str(tmp_path)), FILES)


def test_a_missing_shipped_one_has_no_address() -> None:
    wanted = replace(settings("nowhere/x.pt"), name="shapes_clip_score")
    with pytest.raises(ScoreError, match=r"or leave it empty for what is shipped$"):
        locate(wanted, FILES)


def test_is_present(tmp_path: Path) -> None:
    assert not is_present(settings(), FILES)
    assert not is_present(settings(str(tmp_path)), FILES)
    assert not is_present(settings("missing/model.pt"), FILES)
    (tmp_path / "second.bin").touch()
    assert is_present(settings(str(tmp_path)), FILES)
    assert is_present(settings(base=str(tmp_path)), FILES, "base")


def test_a_cached_repository_needs_no_network(hub: Path) -> None:
    """Its name has a dot, and the first of the files is not in it."""
    wanted = settings("some/clip_224.openai")
    found = locate(wanted, FILES)
    assert found == Checkpoint(hub / "second.bin", "some/clip_224.openai")
    assert is_present(wanted, FILES)
    assert found.tensors()["a"].tolist() == [1, 1]
    assert found.beside("config.json") == hub / "config.json"
    assert found.beside("tokenizer.json") is None


def test_a_repository_that_was_never_fetched(hub: Path) -> None:
    wanted = settings("some/other")
    assert not is_present(wanted, FILES)
    with pytest.raises(ScoreError, match=r"some/other of clip_score is not here and .*huggingface.co/openai"):
        locate(wanted, FILES)


def test_beside_a_local_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert Checkpoint(tmp_path / "x.pt").beside("config.json") == tmp_path / "config.json"
    assert Checkpoint(tmp_path / "x.pt").beside("other.json") is None


def test_sha256_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"abc")
    assert Checkpoint(tmp_path / "x.pt").sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
