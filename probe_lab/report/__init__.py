"""Results of an experiment -> figures, tables and one HTML page. Reads files only (docs/figures.md)."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
