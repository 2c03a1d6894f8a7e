"""An experiment as `probe-lab sweep` leaves it, without the training: made-up predictions in the real files."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from probe_lab.cache import CacheWriter, Manifest, shard_layout, write_scores
from probe_lab.config import Experiment, load_experiment
from probe_lab.metrics import METRICS
from probe_lab.runs.failures import write_failures
from probe_lab.runs.table import collect, write_results
from probe_lab.runs.writing import write_cell
from probe_lab.sweep.grid import Cell, cells
from probe_lab.training.cell_files import predictions_table

ATTENTION, ACTIVATION, IMAGE = (12, 8, 8), (8, 8, 8), 32
COLOURS, SHAPES = ("red", "green", "blue", "orange"), ("circle", "square")
MODELS = {"prompt_only": (0.0, 0.9), "shuffled_labels": (0.0, 0.0), "noisy_latent": (0.1, 0.4), "linear": (0.3, 0.5),
          "attention_entropy": (0.1, 0.1), "x0_preview": (0.4, 0.5)}  # fmt: skip
"""Baseline -> how well it tells seeds and prompts apart."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """The samples with how hard their prompts are and how good they are in their prompt, both [n]."""

    samples: pd.DataFrame
    difficulty: Array
    own: Array

    def target(self, evaluator: str) -> Array:
        """The score of every sample."""
        rng = np.random.default_rng(sum(map(ord, evaluator)))
        return 0.6 + 0.1 * self.difficulty + 0.1 * (self.own + 0.5 * rng.normal(size=len(self.own)))


def truth_of(experiment: Experiment) -> Truth:
    """Made-up samples of the experiment's prompts; a fifth of the prompts is for training, the rest split evenly."""
    seeds, count = experiment.prompts.seeds, experiment.prompts.count
    prompt = np.repeat(np.arange(count), seeds)
    shard, row = shard_layout(len(prompt), seeds, experiment.cache.shard_size)
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(len(prompt)),
            "prompt_id": prompt,
            "prompt": [_caption(int(value)) for value in prompt],
            "seed": np.arange(len(prompt)),
            "split": np.array(["train", "val", "test", "val", "test"])[prompt % 5],
            "shard": shard,
            "row": row,
        }
    )
    rng = np.random.default_rng(0)
    return Truth(samples, rng.normal(size=count)[prompt], rng.normal(size=len(prompt)))


def write_runs(experiment: Experiment, truth: Truth) -> tuple[Cell, ...]:
    """Every cell's folder, results.parquet and failures.json; returns the cells."""
    found = cells(experiment)
    targets = np.stack([truth.target(name) for name in experiment.evaluators], axis=1).astype(np.float32)
    for number, cell in enumerate(found):
        _write_cell(experiment.runs_folder / cell.name, cell, truth, targets, np.random.default_rng(number))
    write_results(experiment.runs_folder, collect(experiment.runs_folder, found))
    write_failures(experiment.runs_folder, [])
    return found


def _write_cell(folder: Path, cell: Cell, truth: Truth, targets: npt.NDArray[np.float32], rng: Any) -> None:
    probe, seed = cell.experiment.probe, cell.experiment.trainer.seed
    skill, prompt_skill = MODELS.get(probe.model, (_skill(cell), 0.6))
    names = cell.experiment.probe_evaluators
    noise = 0.9 * rng.normal(size=targets.shape)
    predicted = (prompt_skill * truth.difficulty + skill * truth.own)[:, None] + noise * (probe.model != "prompt_only")
    ids = {split: np.flatnonzero(truth.samples["split"] == split) for split in ("val", "test")}
    parts = [(split, at, targets[at], predicted[at].astype(np.float32)) for split, at in ids.items()]
    entries = []
    for split, at in ids.items():
        prompts = truth.samples["prompt_id"].nunique() * 2 // 5
        for name, column in zip(names, range(len(names)), strict=True):
            within, overall = _correlations(predicted[at, column], targets[at, column], cell.experiment.prompts.seeds)
            for metric in METRICS:
                value = overall if metric in ("srcc", "ktc", "pcc", "auc") else within
                numbers = {"estimate": value, "lower": value - 0.06, "upper": value + 0.06}
                entries.append({"evaluator": name, "split": split, "metric": metric} | numbers)
                entries[-1] |= {"prompts": prompts, "tied": 0}
    history = [{"epoch": i, "train_loss": 1 / (1 + i), "val_srcc_within": 0.1, "val_selection_gain": 0.1}
               for i in range(cell.experiment.trainer.max_epochs)]  # fmt: skip
    metrics: Mapping[str, Any] = {
        "cell": cell.name, "config_hash": "0" * 16, "model": probe.model, "step": probe.step, "taps": probe.taps,
        "loss": probe.loss, "seed": seed, "seconds": 10.0 + probe.step / 10, "metrics": entries, "history": history,
    }  # fmt: skip
    folder.mkdir(parents=True)
    write_cell(folder, cell.experiment.to_yaml(), predictions_table(parts, names, truth.samples), metrics)


def _skill(cell: Cell) -> float:
    """Later steps, taps in the middle of the list and ranking losses tell seeds apart better."""
    probe = cell.experiment.probe
    tap = 1.0 - 0.02 * (sum(map(ord, "".join(probe.taps))) % 30)
    loss = 1.0 - 0.03 * (len(probe.loss) % 5)
    return (1 - np.exp(-probe.step / 6)) * tap * loss * (1.0 - probe.dropout / 3)


def _correlations(prediction: Array, target: npt.NDArray[np.float32], seeds: int) -> tuple[float, float]:
    """Spearman's correlation within prompts and over all samples; a flat prompt counts as 0."""

    def ranked(values: npt.NDArray[Any]) -> Array:
        ranks = values.argsort(axis=-1).argsort(axis=-1).astype(float)
        centred: Array = ranks - ranks.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).sum(axis=-1, keepdims=True))

    def mean(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
        return float((ranked(x) * ranked(y)).sum(axis=-1).mean())

    flat = bool(np.ptp(prediction.reshape(-1, seeds), axis=1).max() == 0)
    within = 0.0 if flat else mean(prediction.reshape(-1, seeds), target.reshape(-1, seeds))
    return within, mean(prediction[None], target[None])


def write_cache(experiment: Experiment, truth: Truth) -> None:
    """A small cache of the same samples: of every kind of tap the first one only, noise with the picture in it."""
    wanted = experiment.capture.taps
    attention = next(tap for tap in wanted if tap.endswith("/attention"))
    activation = next(tap for tap in wanted if tap.endswith("/activation"))
    manifest = Manifest(
        name=experiment.name, backbone="tiny-sd", scheduler="ddim", steps=experiment.sampling.steps, guidance=2.0,
        height=IMAGE, width=IMAGE, dtype="float32", cache_dtype="float16", shard_size=experiment.cache.shard_size,
        captured_steps=tuple(experiment.capture.steps), taps={attention: ATTENTION, activation: ACTIVATION},
        prompts_sha256="", seeds=experiment.prompts.seeds, count=len(truth.samples), seed=0, code_version="benchmark",
    )  # fmt: skip
    writer = CacheWriter(experiment.cache_folder, manifest, truth.samples)
    for shard in writer.pending():
        rows = writer.samples_of(shard)
        keys = ((f"{step}/{tap}", shape) for step in manifest.captured_steps for tap, shape in manifest.taps.items())
        generator = torch.Generator().manual_seed(shard)
        arrays: dict[str, Tensor] = {key: torch.rand((len(rows), *shape), generator=generator) for key, shape in keys}
        writer.write_shard(shard, arrays, [_picture(int(prompt)) for prompt in rows["prompt_id"]])
    for name in experiment.evaluators:
        write_scores(
            experiment.cache_folder, name, truth.samples["sample_id"].to_numpy(), truth.target(name), metadata={}
        )


def _things(prompt: int) -> list[tuple[str, str]]:
    return [(COLOURS[(prompt + i) % 4], SHAPES[(prompt // 4 + i) % 2]) for i in range(1 + prompt % 3)]


def _caption(prompt: int) -> str:
    return " and ".join(f"a {colour} {shape}" for colour, shape in _things(prompt))


@functools.lru_cache(maxsize=512)
def _picture(prompt: int) -> bytes:
    image = Image.new("RGB", (IMAGE, IMAGE), "white")
    pen = ImageDraw.Draw(image)
    for i, (colour, shape) in enumerate(_things(prompt)):
        box = (2 + 10 * i, 4 + 8 * i, 10 + 10 * i, 12 + 8 * i)
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def experiment_in(folder: Path, text: str) -> Experiment:
    """The experiment that ``text`` states, with all its files under ``folder``."""
    path = folder / "made_up.yaml"
    path.write_text(text, encoding="utf-8")
    places = [f"runs={folder}/runs", f"reports={folder}/reports", f"cache.root={folder}/cache"]
    return load_experiment(path, places)
