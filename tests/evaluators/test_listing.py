"""What ``probe-lab evaluators`` says: every evaluator, and truly whether its weights are here."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from scored_world import fill

from probe_lab.cache import write_scores
from probe_lab.config import load_experiment
from probe_lab.evaluators import available
from probe_lab.evaluators.evaluator_listing import evaluators_table, list_evaluators
from probe_lab.evaluators.imported import import_scores


def test_all_are_there_and_the_exact_ones_are_built_in() -> None:
    listed = {each.name: each.here for each in list_evaluators()}
    assert tuple(sorted(listed)) == available()
    assert {name for name, here in listed.items() if here == "built in"} == {
        name for name in available() if name.startswith("shapes_")
    }
    assert listed["hps_v2_1"] == "not set"


def test_presence_is_that_of_the_experiment(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"")
    models = {
        "clip_score": weights, "clip_score@large": tmp_path, "pick_score": tmp_path / "none.bin", "aesthetic": weights,
    }  # fmt: skip
    experiment = load_experiment("smoke", [f"scoring.models.{name}.checkpoint={path}" for name, path in models.items()])
    listed = {each.name: each.here for each in list_evaluators(experiment)}
    assert {name: listed[name] for name in models} == {
        "clip_score": "yes", "clip_score@large": "yes", "pick_score": "no", "aesthetic": "no",
    }  # fmt: skip
    experiment = load_experiment(
        "smoke", [f"scoring.models.aesthetic.{key}={weights}" for key in ("checkpoint", "base")]
    )
    assert next(each.here for each in list_evaluators(experiment) if each.name == "aesthetic") == "yes"


def test_imported_ones_are_those_of_the_cache(tmp_path: Path) -> None:
    fill(tmp_path / "smoke", [0])
    file = tmp_path / "stars.csv"
    file.write_text("sample_id,score\n0,5\n")
    import_scores(tmp_path / "smoke", file, "human")
    write_scores(tmp_path / "smoke", "other", [0], np.array([1.0]), metadata={})
    listed = list_evaluators(load_experiment("smoke", [f"cache.root={tmp_path}", "evaluators=[human]"]))
    assert [(each.name, each.card.measures) for each in listed if each.here == "imported"] == [
        ("human", "imported from stars.csv")
    ]
    assert "other" not in [each.name for each in listed]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_it_fits_the_terminal(width: int) -> None:
    shown = Console(file=io.StringIO(), width=width)
    shown.print(evaluators_table(list_evaluators()))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    for name in available():
        assert f" {name} " in text
    assert "…" not in text
    assert "https://huggingface.co/yuvalkirstain/PickScore_v1\n" in text
    assert "BSD-3-Clause" in text
    assert "BLIP ViT-L" in text


def test_scores_kept_of_a_former_checkpoint_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    fill(folder, [0])
    for name in ("clip_score", "clip_score@0a1b2c3d"):
        write_scores(folder, name, [0], np.array([1.0]), metadata={"evaluator": "clip_score"})
    listed = list_evaluators(load_experiment("smoke", [f"cache.root={tmp_path}", "evaluators=[clip_score@0a1b2c3d]"]))
    assert {each.name: each.here for each in listed if each.name.startswith("clip_score")} == {
        "clip_score": "not set", "clip_score@0a1b2c3d": "kept",
    }  # fmt: skip


def test_listing_loads_no_model_library() -> None:
    loaded = (
        "import sys; from probe_lab.evaluators.evaluator_listing import list_evaluators; "
        "list_evaluators(); print('open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "False\n"
