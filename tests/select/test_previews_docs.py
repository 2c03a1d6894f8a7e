"""The commands and the program of docs/previews.md, one after the other, on a small cache."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from probe_lab.cli import app

DOCS = Path(__file__).parents[2] / "docs" / "previews.md"
SMALL = ["prompts.count=12", "prompts.seeds=2", "cache.shard_size=12", "data.batch_prompts=3", "workers=1"]


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    text = DOCS.read_text()
    commands = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for line in commands.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "probe-lab"
        assert not app([*arguments, *SMALL], standalone_mode=False)
    found: dict[str, object] = {"__name__": "docs"}
    exec(compile(program, str(DOCS), "exec"), found)
    assert found["best"].denoiser_calls == 8 * 2 + 1 * 6  # type: ignore[attr-defined]
    assert (tmp_path / "best.png").exists()
    assert (tmp_path / "data_cache/smoke/previews/2/shapes_reward.parquet").exists()
