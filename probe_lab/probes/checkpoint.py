"""A trained probe in two files: ``probe.safetensors`` with all tensors, ``probe.json`` with everything
else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

import probe_lab
from probe_lab.config import BACKBONE
from probe_lab.errors import ProbeError
from probe_lab.json_text import read_json
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec

FORMAT_VERSION = 1
WEIGHTS = "probe.safetensors"
DESCRIPTION = "probe.json"


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
        "format_version": FORMAT_VERSION,
        "code_version": probe_lab.__version__,
        "spec": dataclasses.asdict(probe.spec),
        "targets": {"evaluators": list(probe.spec.evaluators)} | statistics,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / WEIGHTS, weights)
        _write(folder / DESCRIPTION, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise ProbeError(f"cannot write the probe in {folder}: {error.strerror}; choose another folder") from error


def load_probe(folder: Path) -> Probe:
    """The probe of ``save_probe`` on the CPU, in evaluation mode.

    Raises:
        ProbeError: files are missing, damaged, of another pair, or of a newer format version.
    """
    try:
        content = read_json((folder / DESCRIPTION).read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ProbeError(
            f"there is no probe in {folder} ({error.strerror}: {Path(error.filename).name}): "
            "give the folder of a trained cell, runs/<experiment>/<cell>"
        ) from error
    except ValueError as error:
        raise ProbeError(f"{folder / DESCRIPTION} is not valid JSON ({error}): train the cell again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ProbeError(
            f"{folder / DESCRIPTION} has format version {version} and this probe_lab reads {FORMAT_VERSION}: "
            "use the probe_lab that wrote it, or train the cell again"
        )
    with torch.device("cpu"):
        probe = Probe(_spec(folder / DESCRIPTION, content.get("spec"))).float()  # whatever torch's default dtype is
    if hashlib.sha256(weights).hexdigest() != content.get("weights_sha256"):
        raise ProbeError(
            f"{folder / WEIGHTS} is not the file that {DESCRIPTION} names: copy both again, or train again"
        )
    try:
        state = load(weights)
    except SafetensorError as error:
        raise ProbeError(f"{folder / WEIGHTS} is damaged ({error}): train the cell again") from error
    expected = probe.state_dict()
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
    probe.load_state_dict(state)
    return probe.eval()


def _spec(path: Path, values: Any) -> ProbeSpec:
    names = {field.name for field in dataclasses.fields(ProbeSpec)}
    if isinstance(values, dict):
        values = {"text_encoder": BACKBONE, "scalars": ()} | values  # there were no others when older ones were trained
    if not isinstance(values, dict) or set(values) != names:
        wrong = sorted(set(values) ^ names) if isinstance(values, dict) else ["spec"]
        raise ProbeError(f"{path} lacks or has too much: {', '.join(wrong)}; train the cell again")
    try:
        taps = {tap: (int(c), int(h), int(w)) for tap, (c, h, w) in values["taps"].items()}
        lists = {name: tuple(values[name]) for name in ("evaluators", "scalars")}
        return ProbeSpec(**values | {"taps": taps} | lists)
    except (TypeError, ValueError, AttributeError) as error:
        raise ProbeError(f"{path} has a value of another type ({error}): train the cell again") from error


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
