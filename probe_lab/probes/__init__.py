"""Probes: from early arrays of a sampler to the scores that evaluators will give to the finished image."""

from probe_lab.probes.checkpoint import load_probe, save_probe
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.preview import preview_probe
from probe_lab.probes.probe import Output, Probe
from probe_lab.probes.spec import ProbeSpec

__all__ = ["Inputs", "Output", "Probe", "ProbeSpec", "load_probe", "preview_probe", "save_probe"]
