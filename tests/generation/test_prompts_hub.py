"""Hub datasets through the real hub client: from a small hub on this machine, then from the client's cache alone."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from huggingface_hub import constants

from probe_lab.config import Prompts
from probe_lab.errors import ConfigError
from probe_lab.generation.prompts import read_prompts


def table(*prompts: str, column: str = "prompt") -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({column: list(prompts)}).to_parquet(buffer)
    return buffer.getvalue()


REPOSITORIES = {
    ("lab/prompts", "main"): {
        "README.md": b"prompts",
        "data/train-00001-of-00002.parquet": table("c", "a"),
        "data/train-00000-of-00002.parquet": table("a", "", "b"),
        "data/test-00000-of-00001.parquet": table("t"),
        "train-notes.md": b"not a table",
    },
    ("lab/prompts", "v1"): {"train.parquet": table("old")},
    ("lab/rows", "main"): {"train.csv": b"prompt\nx\n"},
    ("lab/rows", "refs/convert/parquet"): {
        "default/train/0000.parquet": table("x", column="text"),
        "large/partial-test/0000.parquet": table("y", column="text"),
    },
    ("lab/subsets", "main"): {"small/train.parquet": table("s"), "tall/train.parquet": table("t")},
}


def commit(dataset: str, revision: str) -> str:
    return hashlib.sha1(f"{dataset}@{revision}".encode()).hexdigest()


COMMITS = {(dataset, commit(dataset, revision)): (dataset, revision) for dataset, revision in REPOSITORIES}


class Hub(BaseHTTPRequestHandler):
    """The four routes that a download takes: facts of a repository, its tree, a file's head and its bytes."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        dataset = "/".join(path.removeprefix("/api").split("/")[2:4])
        rest = path.partition(dataset)[2].strip("/")
        action, _, rest = rest.partition("/")
        if dataset not in {name for name, _ in REPOSITORIES}:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif action == "revision":
            if (dataset, rest) in REPOSITORIES:
                self._json({"id": dataset, "sha": commit(dataset, rest), "siblings": []})
            else:
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif action == "tree":
            files = REPOSITORIES[COMMITS[dataset, rest]]
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
            )
        else:
            sha, _, name = rest.partition("/")
            data = REPOSITORIES[COMMITS[dataset, sha]][name]
            self._answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha})

    do_HEAD = do_GET

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


REQUESTS: list[dict[str, Any]] = [
    {"path": "lab/prompts"},
    {"path": "lab/prompts", "split": "test"},
    {"path": "lab/prompts", "count": 2},
    {"path": "lab/prompts", "revision": "v1"},
    {"path": "lab/rows", "column": "text"},
    {"path": "lab/rows", "column": "text", "split": "test"},
    {"path": "lab/subsets"},
    {"path": "lab/subsets", "split": "tall/*.parquet"},
]
PROMPTS = [["a", "b", "c"], ["t"], ["a", "b"], ["old"], ["x"], ["y"], ["s", "t"], ["t"]]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"path": "lab/prompts", "split": "dev"}, "no parquet file of prompts.split 'dev' on main nor as the hub's"),
    ({"path": "lab/prompts", "revision": "v2"}, "no parquet file of prompts.split 'train' at revision 'v2'"),
    ({"path": "lab/prompts", "column": "promt"}, "did you mean 'prompt'?"),
    ({"path": "lab/nothing"}, "'lab/nothing' is no dataset of the hub that you may read: check the id"),
    ({"path": "a/b/c"}, "'a/b/c' is no dataset id: write owner/name"),
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This hub as HF_ENDPOINT and an empty HF_HUB_CACHE: the client reads both from the environment, but only once."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        set_client(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path)
        yield
        server.shutdown()
        thread.join()


def set_client(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def read(keys: dict[str, Any]) -> list[str]:
    return read_prompts(Prompts(source="hub", **keys), seed=0)


def test_a_dataset_is_downloaded_once_and_then_read_without_a_network(
    hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [read(keys) for keys in REQUESTS] == PROMPTS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [read(keys) for keys in REQUESTS] == PROMPTS
    message = "no parquet file of prompts.split 'dev' on main .* in the cache \\(HF_HUB_OFFLINE is set\\)"
    with pytest.raises(ConfigError, match=message):
        read({"path": "lab/prompts", "split": "dev"})


def test_an_offline_cache_without_all_files_of_the_split_is_refused(hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    read({"path": "lab/prompts", "split": "data/train-00000-*.parquet"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read({"path": "lab/prompts", "split": "data/train-00000-*.parquet"}) == ["a", "b"]
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        read({"path": "lab/prompts"})


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_the_hub_does_not_have_is_said_in_one_line(hub: None, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read(keys)
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_client(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(
        ConfigError, match=r"'lab/prompts' cannot be downloaded \(the hub cannot be reached\)"
    ) as caught:
        read({"path": "lab/prompts"})
    assert "hf download --repo-type dataset lab/prompts" in str(caught.value)
    assert "\n" not in str(caught.value)
