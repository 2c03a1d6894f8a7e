"""From a cache to batches: splits by prompt, prompt-grouped batches, streamed or resident."""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
