"""Read a diffusion model's own attention and activations while a stock diffusers pipeline runs."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
