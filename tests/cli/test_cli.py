"""The command line as a user meets it: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import pandas as pd
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
VERBS = ["plan", "generate", "score", "evaluators", "train", "sweep", "report", "track", "compare", "select", "demo"]
VERBS += ["init", "power", "breakeven"]


def probe_lab(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return commands.probe_lab(*arguments, cwd=cwd, environment=environment)


def places(folder: Path) -> list[str]:
    return [
        f"cache.root={folder}/cache",
        f"runs={folder}/runs",
        f"reports={folder}/reports",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
    ]


@pytest.fixture(scope="module")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`experiments/smoke.yaml` through every verb."""
    folder = tmp_path_factory.mktemp("corridor")
    for verb in ("generate", "score", "sweep", "report"):
        result = probe_lab(verb, "smoke", *places(folder))
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
    return folder


def test_the_corridor_leaves_what_the_design_names(corridor: Path) -> None:
    runs = corridor / "runs" / "smoke"
    results = pd.read_parquet(runs / "results.parquet")
    assert set(results["model"]) == {
        "cnn", "prompt_only", "attention_entropy", "linear", "noisy_latent", "x0_preview", "shuffled_labels",
    }  # fmt: skip
    assert results["cell"].nunique() == 4 + 2 + 6
    assert set(results["evaluator"]) == {"shapes_reward", "shapes_binding"}
    for cell in results["cell"].unique():
        names = {path.name for path in (runs / cell).iterdir()}
        assert {"config.yaml", "predictions.parquet", "metrics.json"} <= names
        metrics = json.loads((runs / cell / "metrics.json").read_text())
        if metrics["model"] == "cnn":
            assert load_file(runs / cell / "probe.safetensors")
            assert json.loads((runs / cell / "probe.json").read_text())
    assert json.loads((runs / "failures.json").read_text()) == []
    page = (corridor / "reports" / "smoke" / "index.html").read_text()
    assert "Traceback" not in page
    assert len(page) > 10_000


def test_a_sweep_reads_the_previews_that_score_has_made(corridor: Path) -> None:
    (cell,) = (corridor / "runs" / "smoke").glob("*x0_preview*")
    predictions = pd.read_parquet(cell / "predictions.parquet")
    held = set(pd.read_parquet(corridor / "cache" / "smoke" / "samples.parquet").query("split != 'train'")["sample_id"])
    for evaluator, found in predictions.groupby("evaluator"):
        made = pd.read_parquet(corridor / "cache" / "smoke" / "previews" / "2" / f"{evaluator}.parquet")
        scores = made.set_index("sample_id")["score"]
        assert set(found["sample_id"]) == held
        assert (found["prediction"].to_numpy() == scores[found["sample_id"]].to_numpy()).all()


def test_scores_are_kept_where_no_preview_can_be_made(corridor: Path) -> None:
    gone = "backbone={family: sd, path: gone}"
    keys = ["evaluators=[shapes_layout]", "sweep=[]", "probe.model=x0_preview", gone]
    result = probe_lab("score", "smoke", *places(corridor), *keys)
    assert result.returncode == 0, result.stderr
    assert "scored: shapes_layout" in result.stdout
    assert "previews of x0_preview are left to the sweep: " in result.stdout
    assert not (corridor / "cache" / "smoke" / "previews" / "2" / "shapes_layout.parquet").exists()


def test_a_rerun_does_nothing_again(corridor: Path) -> None:
    runs = corridor / "runs" / "smoke"
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/metrics.json")}
    result = probe_lab("sweep", "smoke", *places(corridor))
    assert result.returncode == 0
    assert "0 cells trained, 12 were finished, 0 failed" in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in runs.glob("*/metrics.json")}


def test_train_compare_and_cache_verbs(corridor: Path) -> None:
    trained = probe_lab("train", "smoke", *places(corridor), "probe.step=4", "probe.taps=[x0]")
    assert trained.returncode == 0, trained.stderr
    assert "x0" in trained.stdout
    compared = probe_lab("compare", "smoke", *places(corridor), "--metric", "selection_gain")
    assert compared.returncode == 0, compared.stderr
    assert "prompt_only" in compared.stdout
    cache = corridor / "cache" / "smoke"
    info = probe_lab("cache", "info", str(cache))
    assert info.returncode == 0
    assert "tiny-sd" in info.stdout
    assert probe_lab("cache", "verify", str(cache)).stdout.strip() == "no problems"


def test_what_stands_beside_lies_where_the_overrides_say(corridor: Path) -> None:
    result = probe_lab("report", "smoke", *places(corridor), "--beside", "quickstart")
    assert result.returncode == 2
    assert f"{corridor}/runs/quickstart/results.parquet does not exist" in result.stderr


def test_imported_scores_are_learned_like_others(corridor: Path, tmp_path: Path) -> None:
    samples = pd.read_parquet(corridor / "cache" / "smoke" / "samples.parquet")
    file = tmp_path / "stars.csv"
    samples.assign(stars=samples["sample_id"] % 5)[["prompt", "seed", "stars"]][1:].to_csv(file, index=False)
    imported = probe_lab(
        "score", "smoke", *places(corridor), "--import", str(file), "--evaluator", "human", "--column", "stars"
    )
    assert imported.returncode == 0, imported.stderr
    assert f"human: {len(samples) - 1} of {len(samples)} samples have a score, 1 have none" in imported.stdout
    evaluators = "evaluators=[human,shapes_reward]"
    scored = probe_lab("score", "smoke", *places(corridor), evaluators)
    assert "scored before: shapes_reward; imported or kept: human" in scored.stdout
    assert scored.returncode == 0, scored.stderr
    listed = probe_lab("evaluators", "smoke", *places(corridor))
    assert "imported from stars.csv" in listed.stdout
    runs = [*places(tmp_path)[1:], f"cache.root={corridor}/cache", "trainer.max_epochs=1", "sweep=[]"]
    trained = probe_lab("train", "smoke", *runs, evaluators)
    assert trained.returncode == 0, trained.stderr
    assert "human" in trained.stdout
    reported = probe_lab("report", "smoke", *runs, evaluators)
    assert reported.returncode == 0, reported.stderr


def test_verify_finds_a_flipped_byte(corridor: Path) -> None:
    cache = corridor / "cache" / "smoke"
    shard = cache / "shards" / "00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    original = shard.read_bytes()
    shard.write_bytes(content)
    try:
        result = probe_lab("cache", "verify", str(cache))
    finally:
        shard.write_bytes(original)
    assert result.returncode == 1
    assert "00001.safetensors, row " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "smoke", "sampling.stepz=3"], "did you mean 'steps'"),
        (["generate", "smokey"], "did you mean 'smoke'"),
        (["generate", "smoke", "sampling.steps=many"], "'sampling.steps'"),
        (["generate", "smoke", "capture.steps=[9]"], "steps are 1 to 8"),
        (["generate", "smoke", "capture.taps=[mid_blok/activation]"], "did you mean 'mid_block/activation'"),
        (["generate", "smoke", "backbone=tiny"], "did you mean 'tiny-sd'"),
        (["score", "smoke"], "generate"),
        (["score", "smoke", "evaluators=[shapes_rewards]"], "did you mean 'shapes_reward'"),
        (["score", "smoke", "evaluators=[shapes_rewards]", "text.encoder=clip_score"], "did you mean 'shapes_reward'"),
        (["score", "smoke", "text.encoder=clip_scor"], "did you mean 'clip_score'"),
        (["score", "smoke", "evaluators=[pick_score]"], "https://huggingface.co/yuvalkirstain/PickScore_v1"),
        (["score", "smoke", "--import", "scores.csv"], "--evaluator"),
        (["evaluators", "smoke", "scoring.models.clip_score.chekpoint=x"], "did you mean 'checkpoint'"),
        (["sweep", "smoke"], "generate"),
        (["report", "smoke"], "sweep"),
        (["compare", "smoke"], "sweep"),
        (["cache", "info", "nowhere"], "nowhere is not a cache"),
        (["generate"], "Missing argument"),
        (["generat"], "No such command"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    extra = [] if arguments[0] == "cache" or len(arguments) < 2 else places(tmp_path)
    result = probe_lab(*arguments, *extra)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "mlflow.db"]


def test_errors_on_a_finished_cache_name_what_is_missing(corridor: Path) -> None:
    cases = {
        "probe.taps=[mid_block/activation]": "mid_block/activation",
        "probe.step=3": "step 3",
        "data.split={train: 1.0, val: 0.0, test: 0.0}": "val",
        "evaluators=[shapes_fidelity]": "shapes_fidelity",
    }
    for override, message in cases.items():
        result = probe_lab("train", "smoke", *places(corridor), override)
        assert result.returncode == 2, (override, result.stderr)
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback() -> None:
    result = probe_lab("plan", "smoke", "backbone=tiny", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = probe_lab("generate", "smoke", f"cache.root={tmp_path}/file")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = probe_lab(verb, "--help")
    assert result.returncode == 0
    assert f"probe-lab {verb}" in result.stdout
    assert "Example" in result.stdout


def test_version_is_the_packages() -> None:
    import probe_lab as package

    assert probe_lab("--version").stdout.strip() == package.__version__


def test_the_module_starts_by_itself(tmp_path: Path) -> None:
    """In a process that nothing was imported for, and that imports nothing heavy before it knows the experiment."""
    command = [sys.executable, "-m", "probe_lab", "generate", "nothing"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
