"""``probe-lab select``: from an experiment and prompts to images, a contact sheet and a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.backbones.truncation import token_limits, truncated, truncation_note
from probe_lab.config import Experiment
from probe_lab.data.canonical import canonical
from probe_lab.errors import SelectError
from probe_lab.generation.prompts import choose_prompts
from probe_lab.selection.drawing import CandidateSampler
from probe_lab.selection.live_view import Watch
from probe_lab.selection.outcome import Summary, fault_lines, kept_table, lines_of, worth
from probe_lab.selection.record import require_writable, write_record
from probe_lab.selection.setup import Setup, setup_of
from probe_lab.selection.true_scores import judges_of, score_rows

FOLDER = Path("selections")


@dataclass(frozen=True)
class SelectRequest:
    """What a call of the command asks for beside the keys of its experiment.

    ``probes`` name cells, the best one where empty; ``seed`` None is the experiment's. With ``score`` finished images
    get true scores; with ``everything`` the pruned candidates are finished too, without selection.
    """

    prompts: Sequence[str]
    out: Path | None = None
    seed: int | None = None
    probes: Sequence[str] = ()
    score: bool = False
    everything: bool = False


def run(
    experiment: Experiment,
    request: SelectRequest,
    *,
    watching: Callable[[], AbstractContextManager[Watch]],
    tell: Callable[[str], None],
) -> Summary:
    """Select among the candidates of every prompt and write what came of it.

    Prompts are read as those of a file are (white space, repeated ones), so the seeds are those that `generate` would
    take for them. ``tell`` is given notes, one line each, before the
    first image.

    Raises:
        SelectError: cells, a schedule, a budget, weights or a folder that do not serve.
        CaptureError: a backbone or a tap that cannot be loaded or read.
        ReportError: no cell is finished. ScoreError, ConfigError: an evaluator that cannot run.
    """
    prompts = _cleaned(request.prompts)
    out = request.out or FOLDER / experiment.name
    seed = experiment.seed if request.seed is None else request.seed
    setup = setup_of(experiment, request.probes)
    judges, notes = judges_of(experiment) if request.score else ([], [])
    require_writable(out)
    for note in (*setup.notes, *notes):
        tell(note)
    tell(_plan_text(experiment, setup))

    started = time.monotonic()
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    seconds = {"load": time.monotonic() - started, "all": 0.0, "score": 0.0}
    limits = token_limits(pipe, experiment.sampling)
    if note := truncation_note(limits, prompts):
        tell(note)
    with watching() as watch:
        drawing = CandidateSampler(experiment, pipe, setup, seed, watch)
        drawn = drawing.select(prompts, truncated(limits, prompts))
    rows, apart = drawn.rows, None
    seconds["select"] = drawn.seconds
    if request.everything:
        rows, seconds["all"], apart = drawing.finish(rows)
    content = _content(experiment, setup, seed) | {
        "denoiser_calls": drawn.calls,
        "denoiser_calls_of_all": drawn.of,
        "seconds": seconds,
        "largest_difference": apart,
        "worth": {},
    }
    write_record(out, rows, content, evaluators=setup.shown)
    if judges:  # what is written stays where an evaluator cannot score a prompt
        started = time.monotonic()
        rows = score_rows(judges, rows, experiment.scoring.batch_size)
        seconds["score"] = time.monotonic() - started
        content["worth"] = {judge.name: value for judge in judges if (value := worth(rows, judge.name))}
        write_record(out, rows, content, evaluators=setup.shown)
    return Summary(kept_table(rows, setup.shown), (*fault_lines(rows), *lines_of(content)), out)


def _cleaned(prompts: Sequence[str]) -> list[str]:
    """The prompts as those of a file are read, each once."""
    for prompt in prompts:
        if not canonical(prompt):
            raise SelectError(f"the prompt {prompt!r} is empty: say what to draw, or leave it out")
    return list(choose_prompts(prompts, len(prompts)).prompts)


def _plan_text(experiment: Experiment, setup: Setup) -> str:
    asked = experiment.select
    text = f"keep {asked.keep} of {asked.candidates} "
    if setup.schedule is None:
        text += f"after step {setup.steps[0]} of {experiment.sampling.steps}, {setup.asked[0].name}"
    else:
        cuts = ", ".join(f"{cut['keep']} go on after step {cut['step']}" for cut in setup.schedule)
        text += f"in {experiment.sampling.steps} steps: {cuts}; {', '.join(each.name for each in setup.asked)}"
    if setup.judged is not None:
        text += f" ({setup.judged.calls} denoiser calls per prompt, the best on validation within {asked.budget})"
    return text


def _content(experiment: Experiment, setup: Setup, seed: int) -> dict[str, Any]:
    asked = experiment.select
    return {
        "experiment": experiment.name,
        "backbone": experiment.backbone.label,
        "sampling": asdict(experiment.sampling),
        "seed": seed,
        "candidates": asked.candidates,
        "keep": asked.keep,
        "budget": asked.budget,
        **setup.described,
    }
