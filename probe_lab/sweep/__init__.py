"""Grids to cells to results, trained by an engine and tracked."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
