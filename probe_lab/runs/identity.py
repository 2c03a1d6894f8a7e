"""What makes a cell the cell that it is: its identity, and the name of its folder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Set
from operator import attrgetter
from typing import Any

from probe_lab.config import BACKBONE, Experiment, ProbeConfig, Scoring
from probe_lab.config.declare import declared
from probe_lab.config.keys import leaf_keys, section
from probe_lab.config.schema import Schema

IRRELEVANT = ("sweep", *(entry.name for entry in dataclasses.fields(Schema) if not declared(entry).in_result))
"""Keys and sections that change no result."""
_OF_EVALUATORS = ("scoring", "text")
"""Sections of which only what a cell reads counts."""
ONLY_SPEED: Mapping[str, list[str]] = {
    entry.name: [key.name for key in dataclasses.fields(kind) if not declared(key).in_result]
    for entry in dataclasses.fields(Schema)
    if (kind := section(Schema, entry.name)) and entry.name not in (*IRRELEVANT, *_OF_EVALUATORS)
}
"""Keys of other sections that change no result."""
_FORMER = ("trainer.strategy",)
"""Keys that only configurations of older cells still have."""
_FIRST: Mapping[str, Set[str]] = {
    name: set(keys.split())
    for name, keys in {
        "backbone": "name family path",
        "prompts": "source path count seeds",
        "sampling": "steps guidance scheduler height width dtype",
        "cache": "name dtype",
        "data": "batch_prompts split",
        "probe": "model step taps evaluators loss within_prompt text width depth embedding dropout temperature margin "
        "alignment nce_temperature ema oversample",
        "trainer": "max_epochs learning_rate weight_decay gradient_clip seed devices",
    }.items()
}
"""Keys that were there when the first cells were named. Every later one counts only where it is set to another value
than its default, so that cells from before it keep their names: nothing is added here."""
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

    Left out: what the schema declares as no part of a result (where files lie, what runs are called, the capture list,
    since the cell states what it reads, and what only changes speed); of ``scoring`` all but dtype, the decoder of tiny
    previews, the models of the evaluators that the cell predicts or reads, and of its text encoder; and what is not
    set, of ``scoring``, ``text`` and all keys that are not of ``_FIRST``.
    """
    content = {key: value for key, value in plain(experiment).items() if key not in (*IRRELEVANT, *_OF_EVALUATORS)}
    for name, keys in ONLY_SPEED.items():
        for key in keys:
            del content[name][key]
    if experiment.prompts.source == "hub" and experiment.prompts.split == "train":
        content["prompts"]["split"] = ""  # which means the same
    content = _counting(content, Schema, {"seed", "evaluators", *_FIRST})
    for name, value in content.items():
        if isinstance(value, dict):
            content[name] = _counting(value, type(getattr(experiment, name)), _FIRST.get(name, set()))
    content = {key: value for key, value in content.items() if value != {}}
    content["cache"]["name"] = experiment.cache_folder.name
    content["evaluators"] = experiment.probe_evaluators
    del content["probe"]["evaluators"]
    content |= _of_evaluators(experiment)
    return content


def _counting(content: Mapping[str, Any], kind: type, first: Set[str]) -> dict[str, Any]:
    """What is set of the keys of a section, and those that were there first."""
    defaults = _defaults(kind)
    return {key: value for key, value in content.items() if key in first or value != defaults[key]}


@functools.cache
def _defaults(kind: type) -> dict[str, Any]:
    values: dict[str, Any] = _plain(kind())
    return values


def plain(experiment: Experiment) -> dict[str, Any]:
    """The keys of an experiment in plain containers, without its sweep."""
    return {entry.name: _plain(getattr(experiment, entry.name)) for entry in dataclasses.fields(Schema)}


def _plain(value: Any) -> Any:
    """``dataclasses.asdict`` without its copies of lists, in a fifth of the time."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
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
    if scoring.preview_decoder:
        found.setdefault("scoring", {})["preview_decoder"] = scoring.preview_decoder
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
