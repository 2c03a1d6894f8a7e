"""The on-disk cache of generated images and tensors (format version 1, described in docs/cache.md)."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
