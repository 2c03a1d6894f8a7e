"""One cell from the cache to its files: train or fit, predict validation and test, evaluate, write."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import Batch, ProbeDataModule, ResidentArrays, Split
from probe_lab.data.splits import RULE
from probe_lab.losses import parse_loss
from probe_lab.probes.baselines import (
    KINDS,
    Predictor,
    Preview,
    other_shuffles,
    previewed,
    shuffled,
    tuned_ridge,
)
from probe_lab.probes.checkpoint import save_probe
from probe_lab.probes.divergence import diverged
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.memory import Reduction
from probe_lab.probes.module import Epoch, GoOn, Stop
from probe_lab.probes.outputs import (
    metric_entries,
    over_shuffles,
    predictions_table,
    require_writable,
    staged,
    write_cell,
)
from probe_lab.probes.probe import Probe
from probe_lab.probes.prompt_ridge import Penalties
from probe_lab.probes.reading import data_of, decided, inputs_of, streamed, taps_of
from probe_lab.probes.spec import ProbeSpec
from probe_lab.probes.training import Trained, seeded, train_probe

WHOLE = Reduction()
_WHERE = (
    *("name", "runs", "reports", "tracking", "workers", "engine"),
    *("halving", "select", "tradeoff", "paper", "sweep"),
)


@dataclass(frozen=True)
class Fitted:
    """A cell after training: ``probe`` is None where there are no weights to keep; ``residency`` is that of its
    arrays; ``penalties`` of a ridge regression, by evaluator."""

    predict: Predictor
    residency: str
    probe: Probe | None = None
    history: list[Epoch] = field(default_factory=list)
    stopped: Stop = ""
    penalties: Sequence[Penalties] = ()


@dataclass(frozen=True)
class Training:
    """How a gradient training is run, see ``train_probe``."""

    with_trainer: bool
    progress: bool
    go_on: GoOn | None


def train_cell(
    experiment: Experiment,
    cache: Cache,
    folder: Path,
    *,
    resident: ResidentArrays | None = None,
    stream: bool = False,
    preview: Preview | None = None,
    with_trainer: bool = True,
    progress: bool = False,
    go_on: GoOn | None = None,
    reduction: Reduction = WHOLE,
) -> None:
    """Train the probe of ``experiment`` on ``cache`` and write the files of a cell into ``folder``.

    The folder appears when everything is in it; an earlier one of that name is replaced. ``resident`` holds
    the arrays when several cells share them; ``stream``: they are too large for that, whatever ``data.residency``
    would find. ``preview`` is needed by ``x0_preview`` only. ``with_trainer`` and ``go_on`` as in ``train_probe``;
    ``reduction`` is how the batches are made smaller. The same experiment and residency give the same files, times
    aside, on the same machine.

    Raises:
        DataError: a step or tap that the cache lacks, an empty split.
        ScoreError: an evaluator without scores.
        ProbeError: a probe that cannot be built, or a folder that cannot be written.
    """
    started = time.monotonic()
    require_writable(folder)
    asked, experiment = experiment, reduction.applied(experiment)
    with seeded(experiment.trainer.seed):
        apart = resident is None and experiment.trainer.devices > 1  # ranks have their own arrays
        inputs = inputs_of(experiment, cache)  # before they are read: what is replaced meanwhile differs from it
        data = data_of(streamed(experiment) if stream or apart else experiment, cache, resident)
        training = Training(with_trainer, progress, go_on)
        fitted = _fit(experiment, cache, data, preview, training)
        table = _predictions(experiment, cache, data, fitted)
        others = [
            _predictions(again, cache, data, _fit(again, cache, data, preview, training))
            for again in other_shuffles(experiment)
        ]
    thresholds = dict(zip(experiment.probe_evaluators, data.statistics().target_median.tolist(), strict=True))
    if experiment.metrics.auc_threshold is not None:
        thresholds = dict.fromkeys(thresholds, experiment.metrics.auc_threshold)
    metrics: dict[str, Any] = {
        "cell": folder.name,
        "config_hash": config_hash(asked),
        "model": experiment.probe.model,
        "step": experiment.probe.step,
        "taps": taps_of(experiment.probe.model, experiment.probe.taps),
        "loss": experiment.probe.loss,
        "seed": experiment.trainer.seed,
        "seconds": 0.0,
        "residency": fitted.residency,
        "inputs": inputs,
        "splits": RULE,
        "metrics": over_shuffles([metric_entries(shuffle, thresholds) for shuffle in (table, *others)]),
        "thresholds": thresholds,
        "history": fitted.history,
    }
    if fitted.stopped:
        metrics["stopped"] = {"by": fitted.stopped, "epochs": len(fitted.history)}
    if fitted.penalties:
        each = zip(experiment.probe_evaluators, fitted.penalties, strict=True)
        metrics["ridge"] = [{"evaluator": name, **asdict(chosen)} for name, chosen in each]
    if others:
        metrics["shuffles"] = 1 + len(others)
    if reduction.times:
        metrics["reduced"] = {
            "batch_prompts": experiment.data.batch_prompts,
            "accumulate": experiment.trainer.accumulate,
            "error": reduction.error,
        }
    metrics["seconds"] = round(time.monotonic() - started, 3)
    with staged(folder) as aside:
        if fitted.probe is not None:
            save_probe(aside, fitted.probe)
        write_cell(aside, asked.to_yaml(), table, metrics)


def _predictions(experiment: Experiment, cache: Cache, data: ProbeDataModule, fitted: Fitted) -> pd.DataFrame:
    parts = []
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        loader = data.evaluation_dataloader(split)
        batches = [(b.sample_id, b.targets, fitted.predict(b).float().cpu()) for b in loader]
        columns = [torch.cat(column).numpy() for column in zip(*batches, strict=True)]
        parts.append((split, columns[0], columns[1], columns[2]))
    table = predictions_table(parts, experiment.probe_evaluators, cache.samples)
    if not np.isfinite(table["prediction"]).all():
        raise diverged(experiment.probe.model, experiment.trainer.learning_rate, experiment.probe.temperature)
    return table


def config_hash(experiment: Experiment) -> str:
    """Sixteen hex digits of all keys but those that say where files lie and how a sweep is run."""
    content = {key: value for key, value in experiment.to_dict().items() if key not in _WHERE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _fit(
    experiment: Experiment,
    cache: Cache,
    data: ProbeDataModule,
    preview: Preview | None,
    training: Training,
) -> Fitted:
    config, evaluators = experiment.probe, experiment.probe_evaluators
    if config.model == "x0_preview":
        return Fitted(previewed(cache, config.step, evaluators, preview), data.residency)
    spec = _spec(experiment, cache, evaluators, next(iter(data.val_dataloader())))
    if spec.kind in ("linear", "attention_entropy"):
        probe, penalties = tuned_ridge(spec, data, within_prompt=config.within_prompt)
        return replace(_fitted(Trained(probe, [], ""), data.residency), penalties=penalties)
    labels = None
    if config.model == "shuffled_labels":
        labels = shuffled(cache, evaluators, experiment.data.split, experiment.trainer.seed)
    go_on = training.go_on if config.model == "cnn" else None  # what baselines are for needs them whole
    ranks = experiment.trainer.devices > 1
    experiment = decided(experiment, cache) if ranks else experiment
    trained = train_probe(
        spec,
        experiment,
        data,
        labels=labels,
        with_trainer=training.with_trainer,
        progress=training.progress,
        go_on=go_on,
    )
    return _fitted(trained, experiment.data.residency if ranks else data.residency)


def _fitted(trained: Trained, residency: str) -> Fitted:
    probe = trained.probe

    def predict(batch: Batch) -> Tensor:
        return probe.predict(Inputs.of(batch))

    return Fitted(predict, residency, probe, trained.history, trained.stopped)


def _spec(experiment: Experiment, cache: Cache, evaluators: Sequence[str], batch: Batch) -> ProbeSpec:
    config, kind = experiment.probe, KINDS[experiment.probe.model]
    shapes = {tap: cache.manifest.taps[tap] for tap in taps_of(config.model, config.taps)}
    tokens, token_dim = (0, 0) if batch.tokens is None else batch.tokens.shape[1:]
    return ProbeSpec(
        kind=kind,
        taps={tap: (shape[0], shape[1], shape[2]) for tap, shape in shapes.items()},
        evaluators=tuple(evaluators),
        step=config.step,
        total_steps=cache.manifest.steps,
        text=config.text if kind == "cnn" else "none",
        text_dim=0 if batch.text is None else batch.text.shape[1],
        token_dim=int(token_dim),
        tokens=int(tokens),
        width=config.width,
        depth=config.depth,
        embedding=config.embedding,
        dropout=config.dropout,
        aligned=kind == "cnn" and "infonce" in parse_loss(config.loss),
        backbone=cache.manifest.backbone,
        cache=cache.manifest.name,
        text_encoder=experiment.text.encoder,
        scalars=tuple(config.scalars),
        head=config.head if kind == "cnn" else "plain",
        steps=tuple(config.steps) if kind == "cnn" else (),
    )
