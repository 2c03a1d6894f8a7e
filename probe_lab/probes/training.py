"""Trains a probe with the Lightning trainer, quietly and reproducibly."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from probe_lab.config import Experiment
from probe_lab.config import Trainer as Settings
from probe_lab.data import Batch, ProbeDataModule
from probe_lab.losses import parse_loss
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.loop import fit
from probe_lab.probes.module import Epoch, GoOn, Monitor, ProbeModule, Stop
from probe_lab.probes.objective import Objective
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec


@dataclass(frozen=True)
class Trained:
    """A trained probe, its history, and what ended the training before its last epoch."""

    probe: Probe
    history: list[Epoch]
    stopped: Stop


def train_probe(
    spec: ProbeSpec,
    experiment: Experiment,
    data: ProbeDataModule,
    *,
    shared: ProbeDataModule | None = None,
    labels: Tensor | None = None,
    with_trainer: bool = True,
    progress: bool = False,
    go_on: GoOn | None = None,
) -> Trained:
    """A probe of ``spec`` with the weights of its best epoch.

    ``prompt_only`` is always trained with the squared error: within a prompt it has nothing to rank. After a
    pure ranking loss the predictions are calibrated on the training split, see ``Probe.calibrate``.
    ``labels`` ``[samples, E]`` replace the scores in training, validation and calibration. With several
    devices, ``shared`` is the data module of which each process reads its part. The same ``trainer.seed``
    gives the same probe; the random state of the caller is left as it was. ``with_trainer`` trains through Lightning's
    ``Trainer``, else ``loop.fit`` does the same with less around it; ``go_on`` is asked after each epoch.
    """
    settings = experiment.trainer
    blind = spec.kind == "prompt_only"
    terms = ("mse",) if blind else parse_loss(experiment.probe.loss)
    objective = Objective.of(experiment.probe, terms, settings.max_epochs)
    monitor: Monitor = "mse" if blind else "srcc_within"
    with seeded(settings.seed):
        probe = prepared(spec, data)
        module = ProbeModule(
            probe, objective, settings, ema=experiment.probe.ema, monitor=monitor, labels=labels, go_on=go_on
        )
        if with_trainer:
            _fit_by_trainer(module, settings, shared or data, progress)
        else:
            fit(module, data, device_of(settings))
        probe = module.finish().cpu()
        if not objective.scaled:
            _calibrate(probe, data, labels)
    return Trained(probe, module.history, module.stopped)


def _fit_by_trainer(module: ProbeModule, settings: Settings, data: ProbeDataModule, progress: bool) -> None:
    with _quiet():
        trainer = Trainer(
            max_epochs=settings.max_epochs,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=settings.strategy,
            gradient_clip_val=settings.gradient_clip or None,
            accumulate_grad_batches=settings.accumulate,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            num_sanity_val_steps=0,
            inference_mode=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, datamodule=data)


def device_of(settings: Settings) -> torch.device:
    """The device that Lightning's trainer would choose for one."""
    if settings.accelerator == "cpu" or (settings.accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def prepared(spec: ProbeSpec, data: ProbeDataModule) -> Probe:
    """An untrained probe with the statistics of the training split."""
    probe = Probe(spec)
    statistics = data.statistics()
    probe.standardise_features(statistics.feature_mean, statistics.feature_std)
    probe.standardise_targets(statistics.target_mean, statistics.target_std, statistics.target_median)
    return probe


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generators start from ``seed`` inside, and are as before afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _calibrate(probe: Probe, data: ProbeDataModule, labels: Tensor | None) -> None:
    predictions, targets = [], []
    for batch in train_batches(data):
        predictions.append(probe(Inputs.of(batch)).prediction)
        targets.append(probe.standardised(batch.targets if labels is None else labels[batch.sample_id]))
    probe.calibrate(torch.cat(predictions), torch.cat(targets))


def train_batches(data: ProbeDataModule) -> Iterator[Batch]:
    """The training split once, in cache order."""
    yield from data.predict_dataloader()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's banners are of no use where hundreds of cells are trained; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
