"""Where work runs: workers are given tasks, in processes of this machine or on a Ray cluster."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
