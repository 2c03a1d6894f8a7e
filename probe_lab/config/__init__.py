"""The experiment: what its keys are, how its file is read, and which values are refused.

An experiment file states only what differs. ``load_experiment`` reads it, applies ``key=value`` overrides (an OmegaConf
dotlist) and refuses unknown keys, wrong types and impossible values before any work starts.
"""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
