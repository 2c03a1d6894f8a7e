"""Probes: from early arrays of a sampler to the scores that evaluators will give to the finished image."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe_lab.probes.checkpoint import load_probe, save_probe
    from probe_lab.probes.fitted import Fitted, Fitting
    from probe_lab.probes.inputs import Inputs
    from probe_lab.probes.kinds import BY_RIDGE, ProbeKind
    from probe_lab.probes.preview import preview_probe
    from probe_lab.probes.probe import Output, Probe
    from probe_lab.probes.spec import ProbeSpec

__all__ = [
    "BY_RIDGE",
    "Fitted",
    "Fitting",
    "Inputs",
    "Output",
    "Probe",
    "ProbeKind",
    "ProbeSpec",
    "load_probe",
    "preview_probe",
    "save_probe",
]

_HOMES = {
    "BY_RIDGE": "kinds",
    "Fitted": "fitted",
    "Fitting": "fitted",
    "Inputs": "inputs",
    "Output": "probe",
    "Probe": "probe",
    "ProbeKind": "kinds",
    "ProbeSpec": "spec",
    "load_probe": "checkpoint",
    "preview_probe": "preview",
    "save_probe": "checkpoint",
}


def __getattr__(name: str) -> object:
    """Kinds of probes are asked where nothing is trained: the libraries of the others come when they are asked for."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
