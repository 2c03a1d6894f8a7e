"""What makes a cell the cell that it is: its identity, and the name of its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from probe_lab.config import BACKBONE, Experiment, ProbeConfig, Scoring
from probe_lab.config.keys import leaf_keys
from probe_lab.config.schema import Schema

IRRELEVANT = (
    *("name", "runs", "reports", "tracking", "workers", "engine"),
    *("halving", "select", "tradeoff", "paper", "sweep", "capture"),
)
"""Keys that change no result."""
ONLY_SPEED: Mapping[str, tuple[str, ...]] = {
    "sampling": ("batch_size", "device", "offload"),
    "cache": ("root", "shard_size"),
    "data": ("residency", "num_workers"),
    "trainer": ("accelerator",),
}
"""Keys of other sections that change no result."""
_FORMER = ("trainer.strategy",)
"""Keys that only configurations of older cells still have."""
_LATER: Mapping[str, tuple[str, ...]] = {
    "prompts": ("column", "exclude", "field", "per_image", "quoting", "revision", "shuffle", "split"),
    "sampling": ("max_sequence_length", "safety_checker", "vae_slicing", "vae_tiling"),
    "trainer": ("accumulate", "patience"),
    "probe": (
        *("scalars", "steps", "head", "correlation", "shuffles"),
        *("nce_temperature_ratio", "nce_negatives", "ema_warmup"),
    ),
    "metrics": ("auc_threshold",),
}
"""Keys that came after the first cells were named: they count only where they are set."""
_GENERATED = ("seed", "prompts", "sampling", "cache")
"""Sections that decide what `generate` makes, beside ``backbone``."""
_TAPS_IN_NAME = 64


def cell_name(experiment: Experiment) -> str:
    """A folder name such as ``step05-cnn-up_blocks.1.attentions.0.attention-listwise-seed0-1a2b3c4d``.

    The last part hashes ``identity``: a key that changes the result changes the name, another one does not.
    """
    probe = experiment.probe
    digest = hashlib.sha256(json.dumps(identity(experiment), sort_keys=True).encode()).hexdigest()[:8]
    readable = f"step{probe.step:02d}-{probe.model}-{_taps_label(probe)}-{probe.loss}-seed{experiment.trainer.seed}"
    return re.sub(r"[^A-Za-z0-9._+-]", "_", f"{readable.replace('/', '.')}-{digest}")


def identity(experiment: Experiment) -> dict[str, Any]:
    """Everything that determines the result of a cell, as JSON holds it.

    Left out: where files lie and what runs are called, the capture list (the cell states what it reads),
    and what only changes speed (``sampling.batch_size``, ``device`` and ``offload``, ``cache.shard_size``,
    ``data.residency`` and ``num_workers``, ``trainer.accelerator``; of ``scoring`` all but dtype and the models of
    the evaluators that the cell predicts or reads, and of its text encoder). ``scoring``, ``text`` and the keys of
    ``_LATER`` are left out too where nothing is set, so that cells from before these keys keep their names.
    """
    content = {
        entry.name: _plain(getattr(experiment, entry.name))
        for entry in dataclasses.fields(Schema)
        if entry.name not in (*IRRELEVANT, "scoring", "text")
    }
    for section, keys in ONLY_SPEED.items():
        for key in keys:
            del content[section][key]
    if experiment.prompts.source == "hub" and experiment.prompts.split == "train":
        content["prompts"]["split"] = ""  # which means the same
    for section, keys in _LATER.items():
        default = type(getattr(experiment, section))()
        for key in keys:
            if content[section][key] == getattr(default, key):
                del content[section][key]
        if not content[section]:
            del content[section]
    content["cache"]["name"] = experiment.cache_folder.name
    content["evaluators"] = experiment.probe_evaluators
    del content["probe"]["evaluators"]
    content |= _of_evaluators(experiment)
    return content


def _plain(value: Any) -> Any:
    """``dataclasses.asdict`` without its copies of lists, in a fifth of the time."""
    if not dataclasses.is_dataclass(value):
        return value
    return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}


def _of_evaluators(experiment: Experiment) -> dict[str, Any]:
    """What decides, of ``scoring`` and ``text``, the scores and texts that a cell reads, where it is set."""
    scoring, encoder = experiment.scoring, experiment.text.encoder
    read = {*experiment.probe_evaluators, *(each.evaluator for each in experiment.probe.previews), encoder}
    models = {name: dataclasses.asdict(model) for name, model in scoring.models.items() if name in read}
    found: dict[str, Any] = {}
    if models or scoring.dtype != Scoring().dtype:
        found["scoring"] = {"dtype": scoring.dtype, "models": models}
    if encoder != BACKBONE:
        found["text"] = {"encoder": encoder}
    return found


def _taps_label(probe: ProbeConfig) -> str:
    label = "+".join(probe.taps) or "none"
    if len(label) <= _TAPS_IN_NAME:
        return label
    return f"{_shortened(probe.taps[0])}+{len(probe.taps) - 1}more" if len(probe.taps) > 1 else _shortened(label)


def _shortened(tap: str, length: int = _TAPS_IN_NAME) -> str:
    """Both ends of a long tap: the block it is in and its kind."""
    return tap if len(tap) <= length else f"{tap[: length // 2]}..{tap[-(length // 2) + 2 :]}"


def other_images(one: Experiment, other: Experiment) -> dict[str, tuple[Any, Any]]:
    """Keys that decide what `generate` makes, beside the list of what it captures and the cache's name, where two
    experiments differ in them, and both values; of ``backbone`` its label."""
    keys = [key for key in leaf_keys() if key.partition(".")[0] in _GENERATED and not changes_no_result(key)]
    pairs = {key: (attrgetter(key)(one), attrgetter(key)(other)) for key in keys if key != "cache.name"}
    pairs["backbone"] = one.backbone.label, other.backbone.label
    return {key: values for key, values in sorted(pairs.items()) if values[0] != values[1]}


def changes_no_result(key: str) -> bool:
    """Whether a dotted key is in no cell's identity."""
    section, _, name = key.partition(".")
    return key in _FORMER or section in (*IRRELEVANT, "scoring") or name in ONLY_SPEED.get(section, ())
