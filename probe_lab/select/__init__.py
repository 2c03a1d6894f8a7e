"""Early pruning inside a running pipeline: many candidates start, a probe reads them, the promising ones finish."""

from probe_lab.select.schedule import Cut
from probe_lab.select.select import SCHEDULERS, ProbeSelect, Selection

__all__ = ["SCHEDULERS", "Cut", "ProbeSelect", "Selection"]
