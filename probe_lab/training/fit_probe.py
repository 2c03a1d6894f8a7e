"""Trains a probe reproducibly: with the Lightning trainer, the loop of a sweep, or by several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probe_lab.config import Experiment
from probe_lab.config import Trainer as Settings
from probe_lab.data import Batch, ProbeDataModule
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec
from probe_lab.training.distributed import RankTask, fit_on_ranks
from probe_lab.training.fitted import Fitted, Fitting
from probe_lab.training.judge_scores import judge_weights
from probe_lab.training.lightning_module import ContinueAfterEpoch, Epoch, Stop
from probe_lab.training.lightning_trainer import fit_by_trainer, module_of, objective_of
from probe_lab.training.probe_data import decided
from probe_lab.training.shuffles import shuffled
from probe_lab.training.sweep_loop import fit
from probe_lab.training.validated_batches import Validated


def by_gradient(fitting: Fitting) -> Fitted:
    """Trains the probe that the experiment describes; one of shuffled labels on those. Baselines are trained to their
    end, whatever ``go_on`` says: what they are for needs them whole."""
    experiment, kind, data = fitting.experiment, fitting.kind, fitting.data
    labels = None
    if kind.shuffled:
        labels = shuffled(fitting.cache, fitting.evaluators, experiment.data.split, experiment.trainer.seed)
    ranks = experiment.trainer.devices > 1
    spec = fitting.spec()
    experiment = decided(experiment, fitting.cache) if ranks else experiment
    trained = train_probe(
        spec,
        experiment,
        data,
        labels=labels,
        with_trainer=fitting.with_trainer,
        progress=fitting.progress,
        go_on=None if kind.is_baseline else fitting.go_on,
    )
    residency = experiment.data.residency if ranks else ""
    fitted = Fitted.of(trained.probe, trained.history, trained.stopped)
    return replace(fitted, residency=residency, validated=trained.validated)


@dataclass(frozen=True)
class Trained:
    """A trained probe, its history, what ended the training before its last epoch, and ``Fitted.validated``."""

    probe: Probe
    history: list[Epoch]
    stopped: Stop
    validated: Validated | None = None


def train_probe(
    spec: ProbeSpec,
    experiment: Experiment,
    data: ProbeDataModule,
    *,
    labels: Tensor | None = None,
    with_trainer: bool = True,
    progress: bool = False,
    go_on: ContinueAfterEpoch | None = None,
) -> Trained:
    """A probe of ``spec`` with the weights of its best epoch.

    What cannot rank within a prompt is trained with the squared error. After a pure ranking loss the predictions are
    calibrated on the validation split, see ``Probe.calibrate``. ``labels`` ``[samples, E]`` replace the scores in
    training, validation and calibration. The same ``trainer.seed``
    gives the same probe; the random state of the caller is left as it was. ``with_trainer`` trains through Lightning's
    ``Trainer``, else ``sweep_loop.fit`` does the same with less around it; ``go_on`` is asked after each epoch. Several
    devices are processes that each read their part of the cache, see ``fit_on_ranks``; ``data`` is all of it.
    """
    settings, objective = experiment.trainer, objective_of(spec, experiment)
    with seeded(settings.seed):
        probe = prepared(spec, data, judge_weights(experiment, data.cache) if spec.judge else None)
        if settings.devices > 1:
            job = RankTask.of(probe, experiment, data.cache, labels=labels, asks=go_on is not None, progress=progress)
            trained = Trained(probe, *fit_on_ranks(probe, job, go_on))
        else:
            module = module_of(probe, experiment, labels=labels, go_on=go_on)
            if with_trainer:
                fit_by_trainer(module, settings, data, progress=progress)
            else:
                fit(module, data, device_of(settings))
            trained = Trained(module.finish().cpu(), module.history, module.stopped)
        if not objective.scaled or spec.judge:
            validated = calibrated(trained.probe, data, labels)
            if data.steps == (data.step,):  # else it has rows of other steps than those that are predicted
                trained = replace(trained, validated=validated)
    return trained


def device_of(settings: Settings) -> torch.device:
    """The device that Lightning's trainer would choose for one."""
    if settings.accelerator == "cpu" or (settings.accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def prepared(spec: ProbeSpec, data: ProbeDataModule, judge: Mapping[str, Tensor] | None = None) -> Probe:
    """An untrained probe with the statistics of the training split, and where it has one the trained ``judge``."""
    probe = Probe(spec)
    statistics = data.statistics()
    probe.standardise_features(statistics.feature_mean, statistics.feature_std)
    probe.standardise_targets(statistics.target_mean, statistics.target_std, statistics.target_median)
    if probe.judge is not None and judge is not None:
        probe.judge.load_state_dict(judge)
    if spec.numbers:
        scalars, targets, prompt = data.scalars_of("train")
        probe.fit_scalars(scalars[:, : spec.numbers], targets, prompt)
    return probe


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators start from ``seed`` inside, and are as before afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def calibrated(probe: Probe, data: ProbeDataModule, labels: Tensor | None = None) -> Validated:
    """``Blend.fit`` and ``Probe.calibrate`` on prompts that the probe was not trained on: it knows its own too well.
    There are some, or no epoch could be chosen. Returns what was read for that."""
    validated = Validated.of(probe, data.val_dataloader())
    prediction = validated.prediction
    target = probe.standardised(validated.scores if labels is None else labels[validated.ids])
    if probe.blend is not None:
        probe.blend.fit(prediction, validated.judged, target, validated.prompt)
        prediction = probe.blend(prediction, validated.judged)
    probe.calibrate(prediction, target)
    return validated


def train_batches(data: ProbeDataModule) -> Iterator[Batch]:
    """The training split once, in cache order."""
    yield from data.predict_dataloader()[0]
