"""The results on disk: the files of trained cells, their names, the table of a sweep, and the reader of them all."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
