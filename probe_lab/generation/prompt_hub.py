"""The parquet files of a dataset on the Hugging Face hub, through the hub client's own cache."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from probe_lab.errors import ConfigError

CONVERTED = "refs/convert/parquet"
"""Where the hub keeps parquet copies of datasets that are stored as something else."""


def hub_files(dataset: str, split: str, revision: str) -> list[Path]:
    """The parquet files of a split in the order of their names, downloaded unless the hub's cache has them.

    ``split`` is a name such as ``train``, or a pattern of file names that ends in ``.parquet``. Without a
    ``revision`` it is that of ``main``, or the hub's own parquet copy where ``main`` holds none. Where the hub cannot
    be reached, the cache has to hold the whole split.

    Raises:
        ConfigError: no such dataset, revision or split, or it is neither here nor to be reached.
    """
    patterns = [split] if split.endswith(".parquet") else _layouts(split)
    for at in [revision] if revision else ["main", CONVERTED]:
        files = _files(dataset, at, patterns)
        if files:
            return files
    where = f"at revision '{revision}'" if revision else "on main nor as the hub's parquet copy"
    cached = " in the cache (HF_HUB_OFFLINE is set)" if is_offline_mode() else ""
    raise ConfigError(
        f"the dataset '{dataset}' has no parquet file of prompts.split '{split}' {where}{cached}: "
        "name another split, or the file itself, data/train-*.parquet for instance"
    )


def _layouts(split: str) -> list[str]:
    """How datasets name the files of a split: ``train.parquet``, ``train-00000-of-00002.parquet``, ``train/0.parquet``.

    The hub's copies of large datasets hold their beginning, as ``partial-train``.
    """
    names = [f"{split}.parquet", f"{split}-*.parquet", f"{split}/*.parquet", f"partial-{split}/*.parquet"]
    return [*names, *(f"*/{name}" for name in names)]


def _files(dataset: str, revision: str, patterns: list[str]) -> list[Path]:
    """The matching files of one revision; none where it does not exist."""
    try:
        folder = Path(snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except RevisionNotFoundError:
        return []
    except HFValidationError as error:
        raise ConfigError(f"prompts.path '{dataset}' is no dataset id: write owner/name") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"prompts.path '{dataset}' is no dataset of the hub that you may read: check the id, "
            "or log in with `hf auth login` when it is private or gated"
        ) from error
    except LocalEntryNotFoundError as error:
        if is_offline_mode():
            return []
        raise _unreachable(dataset, "the hub cannot be reached") from error
    except Exception as error:  # the client lets those of its HTTP library through, whose classes changed before
        raise _unreachable(dataset, (str(error).strip() or type(error).__name__).splitlines()[0]) from error
    # The folder may hold what an earlier download asked for, too.
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.parquet")}
    return [found[name] for name in sorted(found) if any(fnmatch(name, pattern) for pattern in patterns)]


def _unreachable(dataset: str, reason: str) -> ConfigError:
    return ConfigError(
        f"the dataset '{dataset}' cannot be downloaded ({reason}): run "
        f"`hf download --repo-type dataset {dataset}` where there is a network, or use prompts.source=file"
    )
