"""Grids to cells to results, trained by an engine and tracked."""

from probe_lab.lazy import lazy_names
from probe_lab.sweep.compare import compare as compare  # at once: it has the name of its package

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
