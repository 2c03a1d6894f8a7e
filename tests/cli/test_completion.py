"""What Bash offers while a command is typed, by the script that `--show-completion` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe_lab.cli import completion
from probe_lab.config.keys import leaf_keys

SCRIPT = """
eval "$(probe-lab --show-completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
_probe_lab_completion probe-lab
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["sw"], ["sweep"]),
        (["sweep", "own"], ["own_world"]),
        (["sweep", "paper/dp_table_pre"], ["paper/dp_table_prediction"]),
        (["compare", "smoke", "own"], ["own_world"]),
        (["report", "smoke", "--beside", "own"], ["own_world"]),
        (["config", "probe.lo"], ["probe.loss"]),
    ],
)
def test_bash_offers_verbs_experiments_and_keys(typed: list[str], offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own_world.yaml").write_text("backbone: tiny-sd\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-c", SCRIPT, "bash", "probe-lab", *typed]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.stdout.split() == offered, done.stderr


def test_every_key_and_section_can_be_explained() -> None:
    assert set(leaf_keys()) | {"probe", "sweep"} <= set(completion.keys(""))
    assert completion.keys("probe.lo") == ["probe.loss"]
