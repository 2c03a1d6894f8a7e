"""Runs ``python -m probe_lab`` as a user does: a process of its own, its output and its exit code."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import interpreters


def probe_lab(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run`` gives for the command in the folder ``cwd``, its output as text."""
    return interpreters.run(["-m", "probe_lab", *arguments], cwd=cwd, env=environment, stdin=subprocess.DEVNULL)
