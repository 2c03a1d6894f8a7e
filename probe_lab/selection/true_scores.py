"""True scores of finished images, by the evaluators of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from probe_lab.config import Experiment
from probe_lab.errors import SelectError
from probe_lab.evaluators import Evaluator, create, is_known, score_all
from probe_lab.evaluators.passes import release
from probe_lab.selection.candidates import Candidate, PromptCandidates


def judges_of(experiment: Experiment) -> tuple[list[Evaluator], list[str]]:
    """The evaluators that can run, ready, and a note on those whose scores were imported.

    Raises:
        SelectError: none can run.
        ConfigError, ScoreError: a model that is not where it should be.
    """
    names = [name for name in experiment.evaluators if is_known(name)]
    if not names:
        raise SelectError(
            f"the scores of {', '.join(experiment.evaluators)} were imported, and new images have none: leave --score "
            "out"
        )
    judges = [create(name, experiment.scoring) for name in names]
    for judge in judges:
        judge.metadata()  # a checkpoint that is missing is told before anything is generated
    missing = [name for name in experiment.evaluators if name not in names]
    return judges, [f"imported, so without true scores here: {', '.join(missing)}"] if missing else []


def score_rows(
    judges: Sequence[Evaluator], rows: Sequence[PromptCandidates], batch_size: int
) -> list[PromptCandidates]:
    """The rows with the true scores of every finished image that is a picture of its prompt."""
    places = [(row, one) for row, candidates in enumerate(rows) for one in candidates.candidates if one.can_be_judged]
    scores: dict[tuple[int, int], dict[str, float]] = {}
    for start in range(0, len(places), batch_size):
        part = places[start : start + batch_size]
        images = [one.image for _, one in part if one.image is not None]
        found = score_all(judges, images, [rows[row].prompt for row, _ in part])
        for index, (row, one) in enumerate(part):
            scores[row, one.number] = {name: float(values[index]) for name, values in found.items()}
    release(judges)

    def judged(row: int, one: Candidate) -> Candidate:
        return replace(one, true=scores.get((row, one.number), {}))

    return [replace(row, candidates=[judged(place, one) for one in row.candidates]) for place, row in enumerate(rows)]
