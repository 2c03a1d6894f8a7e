"""What cells read of the picture judges of their cache: weights, and the scores of all samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.judge_files import AGAIN, JudgeFiles
from probe_lab.config import Experiment
from probe_lab.errors import CacheError, ProbeError
from probe_lab.probes.picture_judge import QUESTIONS, columns_of, of_evaluators

WEIGHTS = "weights"
MADE_FROM = "settings_sha256"
"""Metadata key of weights and scores: the hash of labels and settings."""
ANSWERS = "answers"
"""Metadata key: how many answers of each evaluator a judge gives."""


def judge_weights(experiment: Experiment, cache: Cache) -> dict[str, Tensor]:
    """The weights of the judge that a cell reads, of the evaluators that its probe predicts.

    Raises:
        CacheError: the judge is not there, or damaged.
        ProbeError: it does not know an evaluator or the step, or was trained on another split or text encoder.
    """
    weights, metadata = _files(experiment, cache).read(WEIGHTS)
    return of_evaluators(weights, _places(experiment, cache, metadata))


def judged_scores(experiment: Experiment, cache: Cache) -> Tensor:
    """What that judge says of all samples at ``probe.step``: float32 [samples, 2E], NaN where there is no picture.

    Raises:
        ProbeError: as ``judge_weights``.
        CacheError: as there; or the scores are of another judge, or lack samples.
    """
    files = _files(experiment, cache)
    _, metadata = files.read(WEIGHTS)
    places = _places(experiment, cache, metadata)
    tensors, made = files.read(experiment.probe.step)
    if made.get(MADE_FROM) != metadata.get(MADE_FROM) or lacks_scores(tensors["scores"], cache):
        raise CacheError(
            f"{files.path(experiment.probe.step)} is of another judge than the weights beside it, or lacks samples: "
            f"{AGAIN}"
        )
    known = len(json.loads(metadata["evaluators"]))
    return tensors["scores"][:, columns_of(places, known)]


def lacks_scores(scores: Tensor, cache: Cache) -> bool:
    """Whether a sample that has a picture has no score."""
    wanted = torch.tensor(cache.picture_samples["sample_id"].to_numpy())
    return not bool(scores[wanted].isfinite().all())


def judge_path_of(experiment: Experiment, cache: Cache, step: int) -> Path:
    """The file of the scores that a cell reads at a step."""
    return _files(experiment, cache).path(step)


def _files(experiment: Experiment, cache: Cache) -> JudgeFiles:
    return JudgeFiles(cache.folder, cache.identity, experiment.trainer.seed % experiment.judge.seeds)


def _places(experiment: Experiment, cache: Cache, metadata: Mapping[str, str]) -> list[int]:
    """Where the evaluators of a cell are among those of the judge, whose ``metadata`` fits the cell."""
    if metadata.get(ANSWERS) != str(QUESTIONS):
        raise CacheError(f"the picture judges of {cache.folder} are of an earlier version: {AGAIN}")
    step, steps = experiment.probe.step, json.loads(metadata["steps"])
    if step not in steps:
        raise ProbeError(
            f"the picture judges of {cache.folder} know the steps {', '.join(map(str, steps))} and not {step}: "
            "name it in judge.steps, then `probe-lab judge`"
        )
    for key, value in {"split": str(experiment.data.split), "encoder": experiment.text.encoder}.items():
        if metadata[key] != value:
            name = {"split": "data.split", "encoder": "text.encoder"}[key]
            raise ProbeError(
                f"the picture judges of {cache.folder} were trained with {name}={metadata[key]} and the cell has "
                f"{value}: run `probe-lab score` and `probe-lab judge` with this one, or set probe.judge=false"
            )
    known = json.loads(metadata["evaluators"])
    for evaluator in experiment.probe_evaluators:
        if evaluator not in known:
            raise ProbeError(
                f"the picture judges know {', '.join(known)} and not {evaluator}: run `probe-lab judge` with it among "
                "'evaluators', or set probe.judge=false"
            )
    return [known.index(evaluator) for evaluator in experiment.probe_evaluators]
