"""Lightning's trainer around a probe, quietly: in this process, or as one rank of a training by several."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from probe_lab.config import Experiment
from probe_lab.config import Trainer as Settings
from probe_lab.data import ProbeDataModule
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec
from probe_lab.training.lightning_module import ContinueAfterEpoch, ProbeModule
from probe_lab.training.objective import Objective


def objective_of(spec: ProbeSpec, experiment: Experiment) -> Objective:
    """What is trained: the loss of the experiment, or the squared error where the probe has nothing to rank.

    Raises:
        ConfigError: no term of the loss trains the predictions.
    """
    terms = spec.built_as.terms(experiment.probe.loss)
    return Objective.of(experiment.probe, terms, experiment.trainer.max_epochs)


def module_of(
    probe: Probe,
    experiment: Experiment,
    *,
    labels: Tensor | None = None,
    go_on: ContinueAfterEpoch | None = None,
    kind: type[ProbeModule] = ProbeModule,
) -> ProbeModule:
    """What trains ``probe`` as the experiment says."""
    return kind(
        probe,
        objective_of(probe.spec, experiment),
        experiment.trainer,
        ema=experiment.probe.ema,
        ema_warmup=experiment.probe.ema_warmup,
        monitor="srcc_within" if probe.spec.built_as.ranks else "mse",
        labels=labels,
        go_on=go_on,
    )


def fit_by_trainer(module: ProbeModule, settings: Settings, data: ProbeDataModule, *, progress: bool = False) -> None:
    """Train ``module`` in place. With several devices this process is one of them, and has joined their group."""
    with quietly():
        trainer = Trainer(
            max_epochs=settings.max_epochs,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy="auto" if settings.devices == 1 else _ddp(),
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


def _ddp() -> DDPStrategy:
    # The environment is named: within a job of a cluster, Lightning would take the job's processes for the ranks. No
    # buffer of a probe changes in training.
    return DDPStrategy(cluster_environment=LightningEnvironment(), broadcast_buffers=False)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
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
