"""Ways of selecting one image of N, measured in true score, in denoiser calls, seconds and operations."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
