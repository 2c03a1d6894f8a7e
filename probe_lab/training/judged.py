"""What cells read of the picture judges of their cache: weights, and the scores of all samples."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.judge_files import JudgeFiles
from probe_lab.config import Experiment
from probe_lab.errors import ProbeError
from probe_lab.probes.picture_judge import of_evaluators

WEIGHTS = "weights"


def judge_weights(experiment: Experiment, cache: Cache) -> dict[str, Tensor]:
    """The weights of the judge that a cell reads, of the evaluators that its probe predicts.

    Raises:
        CacheError: the judge is not there, or damaged.
        ProbeError: it does not know one of the evaluators.
    """
    weights, metadata = _files(experiment, cache).read(WEIGHTS)
    return of_evaluators(weights, _places(experiment, metadata))


def judged_scores(experiment: Experiment, cache: Cache) -> Tensor:
    """What that judge says of all samples at ``probe.step``: float32 [samples, E], NaN in shards that are not complete.

    Raises:
        CacheError, ProbeError: as ``judge_weights``; or the judge was not trained on that step.
    """
    files = _files(experiment, cache)
    step, (_, metadata) = experiment.probe.step, files.read(WEIGHTS)
    steps = json.loads(metadata["steps"])
    if step not in steps:
        raise ProbeError(
            f"the picture judges of {cache.folder} know the steps {', '.join(map(str, steps))} and not {step}: "
            "name it in labels.steps, then `probe-lab score` and `probe-lab judge`"
        )
    tensors, _ = files.read(step)
    return tensors["scores"][:, _places(experiment, metadata)]


def judge_path_of(experiment: Experiment, cache: Cache, step: int) -> Path:
    """The file of the scores that a cell reads at a step."""
    return _files(experiment, cache).path(step)


def _files(experiment: Experiment, cache: Cache) -> JudgeFiles:
    return JudgeFiles(cache.folder, cache.identity, experiment.trainer.seed % experiment.judge.seeds)


def _places(experiment: Experiment, metadata: dict[str, str]) -> list[int]:
    known = json.loads(metadata["evaluators"])
    for evaluator in experiment.probe_evaluators:
        if evaluator not in known:
            raise ProbeError(
                f"the picture judges know {', '.join(known)} and not {evaluator}: run `probe-lab judge` with it among "
                "'evaluators', or set probe.judge=false"
            )
    return [known.index(evaluator) for evaluator in experiment.probe_evaluators]
