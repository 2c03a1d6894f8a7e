"""A trained probe in two files: ``probe.safetensors`` with all tensors, ``probe.json`` with everything
else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import probe_lab
from probe_lab.cache.files import write_whole
from probe_lab.errors import ProbeError, ReportError
from probe_lab.json_text import read_json
from probe_lab.probes.description import spec_of, version_of
from probe_lab.probes.probe import Probe
from probe_lab.regular_files import regular
from probe_lab.runs.files import DESCRIPTION, WEIGHTS, require_file


def save_probe(folder: Path, probe: Probe) -> None:
    """Write a probe; ``load_probe`` needs nothing else. The folder is made where it is missing.

    Each file appears whole or not at all, and the description names the weights by their hash.

    Raises:
        ProbeError: the disk is full or refuses the files.
    """
    weights = save({name: tensor.contiguous().cpu() for name, tensor in probe.state_dict().items()})
    statistics = {
        name: [float(value) for value in getattr(probe, f"target_{name}")]
        for name in ("mean", "std", "median", "slope", "shift")
    }
    content = {
        "format_version": version_of(probe.spec.judge),
        "code_version": probe_lab.__version__,
        "spec": dataclasses.asdict(probe.spec),
        "targets": {"evaluators": list(probe.spec.evaluators)} | statistics | {"unscaled": list(probe.unscaled)},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS, weights)
        write_whole(folder / DESCRIPTION, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise ProbeError(f"cannot write the probe in {folder}: {error.strerror}; choose another folder") from error


def load_probe(folder: Path) -> Probe:
    """The probe of ``save_probe`` on the CPU, in evaluation mode.

    Raises:
        ProbeError: files are missing, no regular files, damaged, of another pair, of another cell than the
            ``metrics.json`` beside them, or of a newer format version; a description of what cannot be built; weights
            that are not finite.
    """
    try:
        content = read_json(regular(folder / DESCRIPTION).read_bytes())
    except OSError as error:
        raise _missing(folder, error) from error
    except ValueError as error:
        raise ProbeError(f"{folder / DESCRIPTION} is not valid JSON ({error}): train the cell again") from error
    try:
        require_file(folder, DESCRIPTION)  # which names the weights
    except ReportError as error:
        raise ProbeError(str(error)) from error
    spec = spec_of(folder / DESCRIPTION, content)
    with torch.device("meta"):  # shapes without memory: what is described may be larger than what there is
        expected = Probe(spec).state_dict()
    try:
        weights = regular(folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise _missing(folder, error) from error
    if hashlib.sha256(weights).hexdigest() != content["weights_sha256"]:
        raise ProbeError(
            f"{folder / WEIGHTS} is not the file that {DESCRIPTION} names: copy both again, or train again"
        )
    try:
        state = load(weights)
    except SafetensorError as error:
        raise ProbeError(f"{folder / WEIGHTS} is damaged ({error}): train the cell again") from error
    _check_weights(folder, state, expected)
    with torch.device("cpu"):
        probe = Probe(spec).float()  # whatever torch's default dtype is
    probe.load_state_dict(state)
    targets = content.get("targets")
    known = targets.get("unscaled", ()) if isinstance(targets, dict) else ()  # older ones do not say
    probe.unscaled = tuple(name for name in spec.evaluators if name in known)
    return probe.eval()


def _missing(folder: Path, error: OSError) -> ProbeError:
    return ProbeError(
        f"there is no probe in {folder} ({error.strerror}: {Path(error.filename).name}): "
        "give the folder of a trained cell, runs/<experiment>/<cell>"
    )


def _check_weights(folder: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ProbeError for tensors other than those expected, and for values that are not finite."""
    for name in sorted(set(expected) ^ set(state)):
        where = "lacks" if name in expected else "has the unknown"
        raise ProbeError(f"{folder / WEIGHTS} {where} tensor '{name}': its {DESCRIPTION} describes another probe")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ProbeError(
                f"'{name}' in {folder / WEIGHTS} has the shape {tuple(tensor.shape)}, "
                f"not {tuple(expected[name].shape)}: "
                f"its {DESCRIPTION} describes another probe"
            )
        if not torch.isfinite(tensor).all():
            raise ProbeError(
                f"'{name}' in {folder / WEIGHTS} holds NaN or infinity, and what it predicts chooses nothing: train "
                "the cell again with a lower trainer.learning_rate"
            )
