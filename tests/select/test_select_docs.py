"""docs/select.md: its programs and commands run, and what it says of them is so."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from probe_lab.capture.pipelines import load_pipeline
from probe_lab.cli import app
from probe_lab.config import Select, load_experiment
from probe_lab.select import SCHEDULERS

ROOT = Path(__file__).parents[2]
TEXT, README = (ROOT / "docs" / "select.md").read_text(), (ROOT / "README.md").read_text()
SMALL = ["prompts.count=12", "cache.shard_size=12", "data.batch_prompts=3", "workers=1", "probe.text=none"]
SWEEP = "sweep={probe.step: [2, 4]}"


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_programs_and_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for verb in ("generate", "score", "sweep"):  # as a user does: a process each
        subprocess.run([sys.executable, "-m", "probe_lab", verb, "smoke", *SMALL, SWEEP], check=True)
    early, late = (next(Path("runs/smoke").glob(f"step{step:02d}-cnn-*")) for step in (2, 4))
    experiment = load_experiment("smoke")
    names: dict[str, Any] = {"pipe": load_pipeline(experiment.backbone, experiment.sampling), "cell": early}
    names |= {"early": early, "late": late}
    first, second = blocks("python")
    exec(compile(first, "docs", "exec"), names)
    assert Path("best.png").exists()
    assert (names["found"].denoiser_calls, names["found"].of) == (2 * (5 * 2 + 1 * 6), 2 * 5 * 8)
    exec(compile(second, "docs", "exec"), names)
    (shown,) = [text for text in blocks("python", README) if "ProbeSelect" in text]
    cell = re.search(r"runs/quickstart/[^\"]*", shown)
    assert cell
    shown = shown.replace(cell[0], str(early)).replace("num_inference_steps=25", "num_inference_steps=8")
    exec(compile(shown, "README", "exec"), dict(names))
    found = names["select"](["a red circle"], num_inference_steps=8, guidance_scale=2.0, height=64, width=64)
    assert found.denoiser_calls == 5 * 2 + 3 * 2 + 1 * 4
    measured, commands = blocks("bash")
    for line in measured.splitlines():
        assert not app([*shlex.split(line)[1:], *SMALL, SWEEP], standalone_mode=False)
    assert "Quality over compute" in Path("reports/smoke/index.html").read_text()
    for line in commands.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "probe-lab"
        assert not app([*arguments, *SMALL], standalone_mode=False)
        record = json.loads(Path("selections/smoke/selection.json").read_text())
        assert record["denoiser_calls"] < record["denoiser_calls_of_all"]


def test_the_section_is_one_of_an_experiment() -> None:
    (text,) = blocks("yaml")
    (said,) = OmegaConf.to_container(OmegaConf.create(text)).values()  # type: ignore[union-attr]
    overrides = [f"select.{key}={json.dumps(value)}" for key, value in said.items()]
    found = load_experiment("smoke", overrides).select
    assert found == Select(**said)
    assert {"budget"} == set(Select.__dataclass_fields__) - set(said)


def test_the_schedulers_are_those_that_are_known() -> None:
    (line,) = re.findall(r"^Schedulers: (.*?)\. ", TEXT, re.MULTILINE)
    assert len(line.split(", ")) == len(SCHEDULERS)
