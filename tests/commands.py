"""Runs ``python -m probe_lab`` in processes of their own, without paying for the imports of PyTorch each time.

A server imports the libraries, none of ours, and forks itself for every command. Our package is imported by the forked
process, from ``__main__`` on, with the command's own environment, folder and streams.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_SERVER = """
import atexit, json, os, runpy, signal, sys, threading
import diffusers, lightning.pytorch, matplotlib.pyplot, pandas, pyarrow.parquet
import scipy.stats, torch, torchmetrics, transformers
from diffusers import StableDiffusionPipeline

def run(order):
    os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY), (1, order["out"], os.O_WRONLY), (2, order["err"], os.O_WRONLY),
    ):
        os.dup2(os.open(path, flags), number)
    sys.argv = ["probe_lab", *order["arguments"]]
    sys.path[0] = order["folder"]
    torch.set_num_threads(1)
    code = 0
    try:
        runpy.run_module("probe_lab", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

assert threading.active_count() == 1, threading.enumerate()
assert not [name for name in sys.modules if name.partition(".")[0] == "probe_lab"]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def probe_lab(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run`` gives for the command in the folder ``cwd``, its output as text."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        order = {
            "arguments": arguments, "folder": str(cwd), "environment": dict(environment or os.environ),
            "out": str(out), "err": str(err),
        }  # fmt: skip
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(["probe_lab", *arguments], code, out.read_text(), err.read_text())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Ends with this process, whose pipe it reads."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
