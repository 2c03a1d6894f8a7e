"""One cell from the cache to its files: train or fit, predict validation and test, evaluate, write."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import ResidentArrays, Split
from probe_lab.data.splits import RULE
from probe_lab.errors import ProbeError
from probe_lab.probes.checkpoint import save_probe
from probe_lab.runs.writing import require_writable, staged, write_cell
from probe_lab.training.cell_files import metric_entries, over_shuffles, predictions_table
from probe_lab.training.cross_fitted import validation_predictions
from probe_lab.training.divergence import diverged
from probe_lab.training.fit_probe import seeded
from probe_lab.training.fitted import Fitted, Fitting, Preview
from probe_lab.training.lightning_module import ContinueAfterEpoch
from probe_lab.training.out_of_memory import Reduction
from probe_lab.training.probe_data import data_of, inputs_of, streamed, taps_of
from probe_lab.training.shuffles import other_shuffles
from probe_lab.training.validated_batches import Validated

WHOLE = Reduction()
_WHERE = (
    *("name", "runs", "reports", "tracking", "workers", "engine"),
    *("halving", "select", "tradeoff", "paper", "sweep"),
)


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
    go_on: ContinueAfterEpoch | None = None,
    reduction: Reduction = WHOLE,
) -> None:
    """Train the probe of ``experiment`` on ``cache`` and write the files of a cell into ``folder``.

    The folder appears when everything is in it; an earlier one of that name is replaced. ``resident`` holds
    the arrays when several cells share them; ``stream``: they are too large for that, whatever ``data.residency``
    would find. ``preview`` is needed by kinds that decode only. ``with_trainer`` and ``go_on`` as in ``train_probe``;
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
        fitting = Fitting(experiment, cache, data, preview, with_trainer, progress, go_on)
        fitted = _fit(fitting)
        table = _predictions(fitting, fitted)
        repeated = [replace(fitting, experiment=again) for again in other_shuffles(experiment)]
        others = [_predictions(again, _fit(again)) for again in repeated]
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
        "residency": fitted.residency or data.residency,
        "inputs": inputs,
        "splits": RULE,
        "train_prompts": data.sizes["train"],
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


def _fit(fitting: Fitting) -> Fitted:
    made = fitting.kind.fitted_by(fitting)  # a predictor alone, or with a probe to keep
    return made if isinstance(made, Fitted) else Fitted(made)


def _predictions(fitting: Fitting, fitted: Fitted) -> pd.DataFrame:
    """Of the validation and test prompts; ProbeError for what are no scores of them."""
    experiment, parts = fitting.experiment, []
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        columns = [column.numpy() for column in _predicted(fitting, fitted, split)]
        if columns[2].shape != columns[1].shape:
            raise ProbeError(
                f"{experiment.probe.model} predicts numbers of shape {columns[2].shape} for {columns[1].shape[0]} "
                f"samples and {columns[1].shape[1]} evaluators: give [samples, evaluators]"
            )
        parts.append((split, columns[0], columns[1], columns[2]))
    table = predictions_table(parts, experiment.probe_evaluators, fitting.cache.samples)
    if not np.isfinite(table["prediction"]).all():
        raise diverged(experiment.probe.model, experiment.trainer.learning_rate, experiment.probe.temperature)
    return table


def _predicted(fitting: Fitting, fitted: Fitted, split: Split) -> Sequence[Tensor]:
    """Of the samples of a split: ids [n], raw scores [n, E] and what is predicted for them."""
    batches, probe, validated = fitting.data.evaluation_dataloader(split), fitted.probe, fitted.validated
    if split == "val" and probe is not None and (probe.blend is not None or validated is not None):
        validated = validated or Validated.of(probe, batches)
        return validated.ids, validated.scores, validation_predictions(probe, validated)
    rows = [(batch.sample_id, batch.targets, fitted.predict(batch).float().cpu()) for batch in batches]
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def config_hash(experiment: Experiment) -> str:
    """Sixteen hex digits of all keys but those that say where files lie and how a sweep is run."""
    content = {key: value for key, value in experiment.to_dict().items() if key not in _WHERE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
