"""Prompts that an evaluator cannot score are told before images are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from probe_lab.cli import app, main
from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import ScoreError
from probe_lab.evaluators.scorable import require_scorable, unscorable_note

FOREIGN = ["a cat", "a red circle", "a red circle right of a blue square", "a dog", "a hen"]


def experiment(tmp_path: Path, *overrides: str) -> Experiment:
    return load_experiment("smoke", [f"cache.root={tmp_path}", *overrides])


def test_the_sentence_names_the_first_prompts(tmp_path: Path) -> None:
    smoke = experiment(tmp_path)
    note = unscorable_note(smoke, FOREIGN)
    assert note.startswith(f"the evaluator {smoke.evaluators[0]} cannot score 4 of the 5 prompts, 'a cat', ")
    assert "'a dog' and 1 more: take it out of 'evaluators', or set prompts.source=shapes" in note
    with pytest.raises(ScoreError, match="cannot score 1 of the 2 prompts, 'a dog':"):
        require_scorable(smoke, ["a red circle", "a dog"])


@pytest.mark.parametrize(
    "overrides", [(), ("evaluators=[aesthetic]",), ("capture.images=false",), ("evaluators=[human]",)]
)
def test_nothing_is_said_where_all_can_be_scored(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    prompts = FOREIGN if overrides else ["a red circle", "A blue square, and a red cross"]
    assert unscorable_note(experiment(tmp_path, *overrides), prompts) == ""


def test_generate_refuses_before_it_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\n".join(FOREIGN))
    keys = ["prompts.source=file", f"prompts.path={path}", f"cache.root={tmp_path}/cache"]
    monkeypatch.setattr("sys.argv", ["probe-lab", "generate", "smoke", *keys])
    with pytest.raises(SystemExit):
        main()
    assert "cannot score 4 of the 5 prompts, 'a cat'" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_plan_tells_splits_twins_and_what_cannot_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.csv"
    path.write_text("image_id,prompt\n" + "".join(f"{n},a cat {'!' * n}\n" for n in range(30)) + "1,a cat !\n")
    monkeypatch.setattr("probe_lab.generation.dry_plan.planned", lambda config, tflops: None)
    monkeypatch.setattr("probe_lab.generation.measured_plan.plan_table", lambda plan: "the plan")
    keys = ["prompts.source=file", f"prompts.path={path}", f"cache.root={tmp_path}/cache"]
    shown = CliRunner().invoke(app, ["plan", "smoke", *keys]).output.splitlines()
    assert shown[0] == "the plan"
    assert shown[1].startswith("prompts: 24 kept, dropped 1 duplicate")
    counts = [int(part.split()[0]) for part in shown[2].removeprefix("splits: ").split(", ")]
    assert sum(counts) == 24
    assert min(counts) > 0
    assert shown[3] == (
        "twins: 23 prompts say the same as an earlier one and are kept; "
        f"{counts[2]} of {counts[2]} test prompts have a twin in another split"
    )
    assert "cannot score 24 of the 24 prompts" in shown[4]
