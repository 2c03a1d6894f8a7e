"""Probes: from early arrays of a sampler to the scores that evaluators will give to the finished image."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
