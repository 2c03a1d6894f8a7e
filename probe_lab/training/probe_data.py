"""What a probe reads: the data module of an experiment, whole, or the part of one of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import ProbeDataModule, ResidentArrays
from probe_lab.data.provenance import InputChecksums, read_inputs
from probe_lab.data.resident import fits_in_memory
from probe_lab.data.scalar_table import stored_previews
from probe_lab.data.scalars import Scalar
from probe_lab.errors import ProbeError
from probe_lab.probes.kinds import ATTENTION, kind_of, reads_text
from probe_lab.training.judge_scores import judge_path_of, judged_scores


def taps_of(model: str, taps: Sequence[str]) -> list[str]:
    """The taps that a model reads when an experiment names ``taps``.

    Raises:
        ProbeError: it reads attention and there is no attention tap.
    """
    kind = kind_of(model)
    read = kind.taps_of(taps)
    if kind.reads == "attention" and not read:
        raise ProbeError(f"{model} reads attention and probe.taps is {list(taps)}: name a tap that ends in {ATTENTION}")
    return read


def data_of(
    experiment: Experiment,
    cache: Cache,
    resident: ResidentArrays | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> ProbeDataModule:
    """The batches of one of ``world_size`` processes, each with its share of ``data.batch_prompts``.

    Raises:
        DataError: a step or tap that the cache lacks, an empty split.
        ScoreError: an evaluator without scores.
    """
    probe, taps = experiment.probe, _read(experiment, cache)
    return ProbeDataModule(
        cache,
        step=probe.step,
        taps=taps,
        evaluators=experiment.probe_evaluators,
        batch_prompts=experiment.data.batch_prompts // world_size,
        fractions=experiment.data.split,
        residency=experiment.data.residency,
        seed=experiment.trainer.seed,
        oversample=probe.oversample,
        train_prompts=experiment.data.train_prompts,
        text_encoder=experiment.text.encoder if reads_text(probe) else None,
        scalars=probe.scalars,
        judged=judged_scores(experiment, cache) if probe.judge else None,
        steps=probe.steps,
        num_workers=experiment.data.num_workers,
        resident=resident if kind_of(probe.model).reads else None,
        rank=rank,
        world_size=world_size,
    )


def _read(experiment: Experiment, cache: Cache) -> list[str]:
    """Taps in the batches of a probe."""
    taps = taps_of(experiment.probe.model, experiment.probe.taps)
    if not kind_of(experiment.probe.model).reads:
        # The data module makes batches of arrays; a probe that reads none is given the smallest.
        return [min(cache.manifest.taps, key=lambda tap: int(np.prod(cache.manifest.taps[tap])))]
    return taps


def inputs_of(experiment: Experiment, cache: Cache) -> InputChecksums:
    """What a cell will be trained on beside its arrays; of a kind that decodes also previews, where it need not."""
    probe, evaluators = experiment.probe, experiment.probe_evaluators
    previews, kind = probe.previews, kind_of(probe.model)
    if kind.decodes and stored_previews(cache, probe.step, evaluators, kind.preview) is not None:
        previews = [Scalar(kind.preview, evaluator) for evaluator in evaluators]
    encoder = experiment.text.encoder if reads_text(probe) else None
    judged = [judge_path_of(experiment, cache, probe.step)] if probe.judge else []
    return read_inputs(cache, evaluators, probe.step, previews, encoder, judged)


def streamed(experiment: Experiment) -> Experiment:
    """The experiment without arrays that stay in memory."""
    return replace(experiment, data=replace(experiment.data, residency="stream"))


def decided(experiment: Experiment, cache: Cache) -> Experiment:
    """The experiment with one residency for all of its processes: if each looked for itself at the memory that is
    free, they might disagree, and with that on the order of the samples."""
    if experiment.data.residency != "auto":
        return experiment
    taps = _read(experiment, cache)
    keys = [f"{step}/{tap}" for step in experiment.probe.trained_steps for tap in taps]
    if not fits_in_memory(cache, keys, experiment.trainer.devices):
        return streamed(experiment)
    return replace(experiment, data=replace(experiment.data, residency="memory"))
