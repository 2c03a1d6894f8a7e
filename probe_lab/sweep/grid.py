"""Grids to cells: every point of an experiment's sweep as an experiment of its own, with a stable name."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe_lab.config import BACKBONE, Axis, Experiment, Model, ProbeConfig, Scoring, with_changes
from probe_lab.errors import SweepError
from probe_lab.losses import TERMS, parse_loss

_IRRELEVANT = ("name", "runs", "reports", "tracking", "workers", "engine", "halving", "sweep", "capture")
_LATER: Mapping[str, tuple[str, ...]] = {
    "prompts": ("column", "per_image", "revision", "shuffle", "split"),
    "sampling": ("max_sequence_length", "vae_slicing", "vae_tiling"),
    "trainer": ("accumulate", "patience"),
    "metrics": ("auc_threshold",),
}
"""Keys that came after the first cells were named: they count only where they are set."""
_COUPLED = ("probe.step", "probe.evaluators")
"""Keys of ``probe`` whose limits depend on other sections."""
_CLOSED_FORM: tuple[Model, ...] = ("linear", "attention_entropy", "x0_preview")
_TAPS: Mapping[Model, tuple[str, ...]] = {
    "noisy_latent": ("latent",),
    "x0_preview": ("x0",),
    "prompt_only": (),
}
_TAPS_IN_NAME = 64


@dataclass(frozen=True)
class Cell:
    """One point of a sweep. ``name`` is also its folder; ``axes`` holds the value of every swept key here."""

    name: str
    experiment: Experiment
    axes: Mapping[str, Any]

    @property
    def arrays(self) -> tuple[str, ...]:
        """Cache keys that the cell reads, "<step>/<tap>"."""
        probe = self.experiment.probe
        return tuple(f"{probe.step}/{tap}" for tap in probe.taps)


def cells(experiment: Experiment) -> tuple[Cell, ...]:
    """The union of the grids' Cartesian products, in the order of the file; without grids the experiment
    itself.

    A value of a ``probe.taps`` axis is one tap or a list of taps. What a baseline does not read is
    normalised first (see ``normalised``), and cells with the same identity are merged, so a grid over
    models does not train one thing twice. An ``attention_entropy`` cell without an attention tap has
    nothing to read and is left out.

    Raises:
        ConfigError: a value is of a wrong type or impossible, alone or together with the other axes.
        SweepError: an axis that cannot change a result, or no cell is left.
    """
    swept = tuple(dict.fromkeys(key for grid in experiment.sweep for key in grid))
    for key in swept:
        if key.split(".")[0] in (*_IRRELEVANT, "scoring"):
            raise SweepError(f"the sweep over '{key}' gives one result many times: sweep probe, trainer or data keys")
    plain = single_cell(experiment)
    found: dict[str, Cell] = {}
    for point in itertools.chain.from_iterable(_product(plain, grid) for grid in experiment.sweep or ({},)):
        point = normalised(point, plain)
        if point.probe.model == "attention_entropy" and not point.probe.taps:
            continue
        name = cell_name(point)
        found.setdefault(name, Cell(name, point, {key: _value(point, key) for key in swept}))
    if not found:
        raise SweepError("there is no cell to train: attention_entropy reads attention taps, and probe.taps has none")
    return tuple(found.values())


def single_cell(experiment: Experiment) -> Experiment:
    """The experiment without its sweep: one cell, the one that its ``probe`` section describes."""
    return dataclasses.replace(experiment, sweep=())


def normalised(point: Experiment, experiment: Experiment) -> Experiment:
    """The point with every key that its model does not read set to one value: equal results are equal cells.

    - ``noisy_latent`` reads the tap ``latent``, ``x0_preview`` the tap ``x0``, ``attention_entropy`` only
      attention taps, ``prompt_only`` none.
    - ``prompt_only`` sees nothing of any step, so it has the step of the experiment itself (the first
      captured one, if that was not captured), and always learns with ``mse``.
    - ``linear``, ``attention_entropy`` and ``x0_preview`` are not trained by gradient: beside model, step,
      taps and evaluators, their probe and trainer keys are those of the experiment itself.
    - What reads no text has the text encoder of the experiment itself.
    - Terms of a loss are in the order of ``losses.TERMS``.
    """
    probe, trainer = point.probe, point.trainer
    if probe.model in _CLOSED_FORM:
        own, trainer = experiment.probe, experiment.trainer
        probe = dataclasses.replace(
            own, model=probe.model, step=probe.step, evaluators=probe.evaluators, taps=probe.taps
        )
    if probe.model in _TAPS:
        probe = dataclasses.replace(probe, taps=list(_TAPS[probe.model]))
    if probe.model == "attention_entropy":
        probe = dataclasses.replace(probe, taps=[tap for tap in probe.taps if tap.endswith("/attention")])
    if probe.model == "prompt_only":
        captured = point.capture.steps
        step = experiment.probe.step if experiment.probe.step in captured or not captured else captured[0]
        probe = dataclasses.replace(probe, step=step, loss="mse")
    loss = "+".join(sorted(parse_loss(probe.loss), key=TERMS.index))
    text = point.text if probe.reads_text else experiment.text
    return dataclasses.replace(point, probe=dataclasses.replace(probe, loss=loss), trainer=trainer, text=text)


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
    the evaluators that the cell predicts, and of its text encoder). ``scoring``, ``text`` and the keys of ``_LATER``
    are left out too where nothing is set, so that cells from before these keys keep their names.
    """
    content = dataclasses.asdict(experiment)
    for key in (*_IRRELEVANT, "scoring", "text"):
        del content[key]
    for section, keys in {
        "sampling": ("batch_size", "device", "offload"),
        "cache": ("root", "shard_size"),
        "data": ("residency", "num_workers"),
        "trainer": ("accelerator", "strategy"),
    }.items():
        for key in keys:
            del content[section][key]
    for section, keys in _LATER.items():
        default = dataclasses.asdict(type(getattr(experiment, section))())
        for key in keys:
            if content[section][key] == default[key]:
                del content[section][key]
        if not content[section]:
            del content[section]
    content["cache"]["name"] = experiment.cache_folder.name
    content["evaluators"] = experiment.probe_evaluators
    del content["probe"]["evaluators"]
    content |= _of_evaluators(experiment)
    return content


def _of_evaluators(experiment: Experiment) -> dict[str, Any]:
    """What decides, of ``scoring`` and ``text``, the scores and texts that a cell reads, where it is set."""
    scoring, encoder = experiment.scoring, experiment.text.encoder
    read = {*experiment.probe_evaluators, encoder}
    models = {name: dataclasses.asdict(model) for name, model in scoring.models.items() if name in read}
    found: dict[str, Any] = {}
    if models or scoring.dtype != Scoring().dtype:
        found["scoring"] = {"dtype": scoring.dtype, "models": models}
    if encoder != BACKBONE:
        found["text"] = {"encoder": encoder}
    return found


def _product(experiment: Experiment, grid: Mapping[str, Axis]) -> list[Experiment]:
    """The points of one grid, the last axis fastest.

    ``with_changes`` checks a whole experiment and takes tens of milliseconds, too long for hundreds of
    cells. The keys of ``probe`` and ``trainer`` have limits of their own, so it is enough to check each of
    their values in some combination, and then only combine them.
    """
    axes = {key: [_as_taps(key, value) for value in values] for key, values in grid.items()}
    free: dict[str, list[Any]] = {key: [] for key in axes if _is_free(key)}
    for index in range(max((len(axes[key]) for key in free), default=0)):
        row = with_changes(experiment, {key: axes[key][index] for key in free if index < len(axes[key])})
        for key in free:
            free[key].append(_value(row, key))
    checked: dict[tuple[int, ...], Experiment] = {}
    points = []
    for indices in itertools.product(*(range(len(values)) for values in axes.values())):
        chosen = dict(zip(axes, indices, strict=True))
        rest = {key: axes[key][index] for key, index in chosen.items() if key not in free}
        place = tuple(chosen[key] for key in rest)
        if place not in checked:
            checked[place] = with_changes(experiment, rest) if rest else experiment
        sections: dict[str, dict[str, Any]] = {"probe": {}, "trainer": {}}
        for key in free:
            section, _, name = key.partition(".")
            sections[section][name] = free[key][chosen[key]]
        base = checked[place]
        points.append(
            dataclasses.replace(
                base,
                probe=dataclasses.replace(base.probe, **sections["probe"]),
                trainer=dataclasses.replace(base.trainer, **sections["trainer"]),
            )
        )
    return points


def _is_free(key: str) -> bool:
    return key.startswith(("probe.", "trainer.")) and key not in _COUPLED


def _as_taps(key: str, value: Any) -> Any:
    return [value] if key == "probe.taps" and isinstance(value, str) else value


def _value(experiment: Experiment, key: str) -> Any:
    """The value of a dotted key; a section as a mapping."""
    value: Any = experiment
    for name in key.split("."):
        value = getattr(value, name)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _taps_label(probe: ProbeConfig) -> str:
    label = "+".join(probe.taps) or "none"
    if len(label) <= _TAPS_IN_NAME:
        return label
    return f"{_shortened(probe.taps[0])}+{len(probe.taps) - 1}more" if len(probe.taps) > 1 else _shortened(label)


def _shortened(tap: str, length: int = _TAPS_IN_NAME) -> str:
    """Both ends of a long tap: the block it is in and its kind."""
    return tap if len(tap) <= length else f"{tap[: length // 2]}..{tap[-(length // 2) + 2 :]}"


def group_by_arrays(found: Sequence[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Cells that read the same arrays of the same cache, in order: one resident copy serves them all."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found:
        groups.setdefault((str(cell.experiment.cache_folder), *cell.arrays), []).append(cell)
    return groups
