"""A real MLflow server, and an address before it that answers as a broken one would."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

import interpreters

Mode = Literal["pass", "fail", "forget", "hang"]


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """(address, artifact folder) of a server with an SQLite database in ``folder``, on a free port."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--serve-artifacts",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes for its assistants
        server = interpreters.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
        try:
            _wait_for(f"{address}/health", folder / "server.log")
            yield address, folder / "artifacts"
        finally:
            server.terminate()
            server.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_for(address: str, log: Path) -> None:
    end = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except OSError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)


class Gateway:
    """Hands requests on (``pass``), answers 500 (``fail``), hands on and answers 500 all the same (``forget``: the work
    is done, and who asked does not know), or waits before it answers 500 (``hang``).

    ``only`` limits what is wrong to paths that contain it; ``after`` lets so many of these pass first.
    """

    def __init__(self, target: str) -> None:
        self.mode: Mode = "pass"
        self.only, self.after = "", 0
        self.requests = 0
        host, port = urlsplit(target).hostname or "", urlsplit(target).port
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                gateway.requests += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mode = gateway._mode_for(self.path)
                status, content, kind = 500, b"{}", "application/json"
                if mode == "hang":
                    time.sleep(5)
                if mode in ("pass", "forget"):
                    connection = http.client.HTTPConnection(host, port, timeout=120)
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
                    connection.request(self.command, self.path, body or None, headers)
                    answer = connection.getresponse()
                    content = answer.read()
                    kind = answer.headers.get("Content-Type", kind)
                    status = answer.status if mode == "pass" else 500
                    connection.close()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _mode_for(self, path: str) -> Mode:
        if self.mode == "pass" or self.only not in path:
            return "pass"
        self.after -= 1
        return "pass" if self.after >= 0 else self.mode

    def __enter__(self) -> Gateway:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
