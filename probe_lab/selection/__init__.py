"""Early pruning inside a running pipeline: many candidates start, a probe reads them, the promising ones finish."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
