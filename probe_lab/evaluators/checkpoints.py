"""Released weights: where a file is, what is in it, and loading it without a key too many or too few."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from probe_lab.cache import sha256_of
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Settings, card

SHOWN = 5
"""Keys of each kind that an error lists."""


@dataclass(frozen=True)
class Checkpoint:
    """One file of weights."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        return sha256_of(self.path)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its key, on the CPU; what lies under ``state_dict`` where the file has such an entry.

        ScoreError when it is damaged, or a pickle of more than tensors: that would run code of whoever made it.
        """
        try:
            if self.path.suffix == ".safetensors":
                return load_file(self.path)
            found = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, AttributeError) as error:
            raise ScoreError(
                f"{self.path} holds more than tensors and is not opened, since that can run foreign code: "
                "convert it to safetensors where you trust it"
            ) from error
        except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
            raise ScoreError(f"the checkpoint {self.path} cannot be read ({error}): fetch it again") from error
        found = found.get("state_dict", found) if isinstance(found, dict) else {}
        tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
        if not tensors:
            raise ScoreError(f"the checkpoint {self.path} holds no tensors by name: name the file with the weights")
        return tensors


def locate(settings: Settings, files: Sequence[str]) -> Checkpoint:
    """The checkpoint of an evaluator: the file itself, the first of ``files`` in a folder, or in a hub repository.

    ScoreError when none is configured or it is not there; it says where the released one is.
    """
    wanted = settings.model.checkpoint
    if not wanted:
        raise ScoreError(f"{settings.name} has no checkpoint: {_remedy(settings)}")
    path = Path(wanted).expanduser()
    if path.is_file():
        return Checkpoint(path)
    if path.is_dir():
        for file in files:
            if (path / file).is_file():
                return Checkpoint(path / file)
        raise ScoreError(f"the folder {path} holds none of {', '.join(files)}: {_remedy(settings)}")
    if len(path.parts) == 2 and not path.is_absolute() and not path.suffix:
        return _from_hub(settings, wanted, files)
    raise ScoreError(f"the checkpoint '{wanted}' of {settings.name} does not exist: {_remedy(settings)}")


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy ``tensors`` into ``model``. ScoreError with the first keys that differ, unless keys and shapes agree."""
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
    model.load_state_dict(tensors)


def is_present(settings: Settings, files: Sequence[str]) -> bool:
    """Whether the configured checkpoint is on this machine; nothing is downloaded."""
    path = Path(settings.model.checkpoint).expanduser()
    if not settings.model.checkpoint:
        return False
    if path.exists():
        return path.is_file() or any((path / file).is_file() for file in files)
    return any(_cached(settings.model.checkpoint, file) for file in files)


def _cached(repository: str, file: str) -> bool:
    try:
        hf_hub_download(repository, file, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def _from_hub(settings: Settings, repository: str, files: Sequence[str]) -> Checkpoint:
    for file in files:
        try:
            return Checkpoint(Path(hf_hub_download(repository, file)))
        except RemoteEntryNotFoundError:
            continue
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise ScoreError(
                f"'{repository}' of {settings.name} is neither a file here nor a repository of the hub that you may "
                f"read: {_remedy(settings)}"
            ) from error
        except Exception as error:  # the client lets those of its HTTP library through, whose classes changed before
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ScoreError(
                f"the checkpoint {repository} of {settings.name} cannot be downloaded ({reason}): {_remedy(settings)}"
            ) from error
    raise ScoreError(f"the repository {repository} holds none of {', '.join(files)}: {_remedy(settings)}")


def _remedy(settings: Settings) -> str:
    known = card(settings.name)
    return (
        f"set scoring.models.{settings.name}.checkpoint to a file or a hub id; released weights: "
        f"{known.weights}{f' ({known.file})' if known.file else ''}"
    )


def _some(keys: Sequence[str]) -> str:
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
