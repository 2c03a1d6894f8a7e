"""Released weights: where a file is, what is in it, and loading it without a key too many or too few."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from probe_lab.cache import sha256_of
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Settings, card
from probe_lab.regular_files import regular

SHOWN = 5
"""Keys of each kind that an error lists."""

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of files with weights; other names of two parts may be hub repositories, which have dots in their names too."""

Key = Literal["checkpoint", "base"]
"""Keys of ``EvaluatorModel`` that say where weights are."""


@dataclass(frozen=True)
class Checkpoint:
    """One file of weights; ``repository`` is the hub's that it came from, empty for one that was here."""

    path: Path
    repository: str = ""

    @cached_property
    def sha256(self) -> str:
        return sha256_of(self.path)

    def beside(self, file: str) -> Path | None:
        """A file of the same folder, or of the same commit of its repository; None when there is none to be had."""
        path = self.path.parent / file
        if path.is_file() or not self.repository:
            return path if path.is_file() else None
        try:
            return Path(hf_hub_download(self.repository, file, revision=self.path.parent.name))
        except EntryNotFoundError:
            return None
        except Exception as error:  # as in _download
            raise ScoreError(f"{file} of {self.repository} cannot be downloaded ({_first_line(error)})") from error

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its key, on the CPU; of an entry ``state_dict`` or ``model`` where the file has one.

        ScoreError when it is damaged, or a pickle of more than tensors: that would run code of whoever made it.
        """
        try:
            regular(self.path)
            if self.path.suffix == ".safetensors":
                return load_file(self.path)
            zipped = zipfile.is_zipfile(self.path)
            if zipped and _is_torchscript(self.path):
                raise ScoreError(
                    f"{self.path} is a TorchScript program, as OpenAI's own files are, and is not run: "
                    "name the same model's repository of the hub (openai/clip-vit-base-patch16), or a state dict"
                )
            # Files of torch before 1.6, some of the released ones, are no archives and cannot be mapped.
            found = torch.load(self.path, map_location="cpu", weights_only=True, mmap=zipped)
        except (pickle.UnpicklingError, AttributeError) as error:
            raise ScoreError(
                f"{self.path} is no file of weights, or holds more than tensors, and is not opened, since that can run "
                "foreign code: convert it to safetensors where you trust it"
            ) from error
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
            raise ScoreError(f"the checkpoint {self.path} cannot be read ({error}): fetch it again") from error
        for entry in ("state_dict", "model"):
            found = found.get(entry, found) if isinstance(found, dict) else {}
        tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
        if not tensors:
            raise ScoreError(f"the checkpoint {self.path} holds no tensors by name: name the file with the weights")
        return tensors


def locate(settings: Settings, files: Sequence[str], key: Key = "checkpoint", released: str = "") -> Checkpoint:
    """The checkpoint of an evaluator: the file itself, the first of ``files`` in a folder, or in a hub repository.

    ``key`` is that of ``scoring.models`` which names it, and ``released`` where to get it when not the card's.
    ScoreError when none is configured or it is not there; it says where the released one is.
    """
    wanted = getattr(settings.model, key)
    remedy = _remedy(settings, key, released)
    if not wanted:
        raise ScoreError(f"{settings.name} has no {key}: {remedy}")
    path = Path(wanted).expanduser()
    if path.is_file():
        return Checkpoint(path)
    if path.is_dir():
        for file in files:
            if (path / file).is_file():
                return Checkpoint(path / file)
        raise ScoreError(f"the folder {path} holds none of {', '.join(files)}: {remedy}")
    if _may_be_repository(wanted):
        return _from_hub(settings.name, wanted, files, remedy)
    raise ScoreError(f"the {key} '{wanted}' of {settings.name} does not exist: {remedy}")


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy ``tensors`` into ``model``; one on the meta device takes them over, in float32.

    ScoreError with the first keys that differ, unless keys and shapes agree.
    """
    own = model.state_dict()
    differences = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "of another shape": [
            f"{key} {list(tensors[key].shape)} instead of {list(own[key].shape)}"
            for key in own
            if key in tensors and tensors[key].shape != own[key].shape
        ],
    }
    told = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in differences.items() if keys]
    if told:
        raise ScoreError(
            f"the checkpoint {source} is not of {type(model).__name__}: keys {', '.join(told)}; "
            "name the checkpoint and architecture that belong together"
        )
    empty = any(parameter.is_meta for parameter in model.parameters())
    model.load_state_dict(tensors, assign=empty)
    if empty:
        model.float()


def is_present(settings: Settings, files: Sequence[str], key: Key = "checkpoint") -> bool:
    """Whether the configured checkpoint is on this machine; nothing is downloaded."""
    wanted = getattr(settings.model, key)
    path = Path(wanted).expanduser()
    if not wanted:
        return False
    if path.exists():
        return path.is_file() or any((path / file).is_file() for file in files)
    return _may_be_repository(wanted) and _cached(wanted, files) is not None


def _may_be_repository(wanted: str) -> bool:
    """Whether ``owner/name`` may be meant; ``./name`` and ``~/name`` are folders."""
    return wanted.count("/") == 1 and wanted[0] not in "/.~" and Path(wanted).suffix.lower() not in SUFFIXES


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _cached(repository: str, files: Sequence[str]) -> Path | None:
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, local_files_only=True))
        except (OSError, ValueError):
            continue
    return None


def _from_hub(name: str, repository: str, files: Sequence[str], remedy: str) -> Checkpoint:
    # What was downloaded before is taken without asking the hub: scores stay the same, and without a network too.
    cached = _cached(repository, files)
    if cached:
        return Checkpoint(cached, repository)
    for file in files:
        try:
            return Checkpoint(Path(hf_hub_download(repository, file)), repository)
        except RemoteEntryNotFoundError:
            continue
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise ScoreError(
                f"'{repository}' of {name} is neither a file here nor a repository of the hub that you may read: "
                f"{remedy}"
            ) from error
        except Exception as error:  # the client lets those of its HTTP library through, whose classes changed before
            raise ScoreError(
                f"the checkpoint {repository} of {name} is not here and cannot be downloaded ({_first_line(error)}): "
                f"{remedy}"
            ) from error
    raise ScoreError(f"the repository {repository} holds none of {', '.join(files)}: {remedy}")


def _remedy(settings: Settings, key: Key, released: str) -> str:
    known = card(settings.name)
    where = released or f"{known.weights}{f' ({known.file})' if known.file else ''}"
    told = f"set scoring.models.{settings.name}.{key} to a file, a folder or a hub id"
    return f"{told}; released weights: {where}" if where else f"{told}, or leave it empty for what is shipped"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _some(keys: Sequence[str]) -> str:
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
