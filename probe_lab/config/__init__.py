"""The experiment: what its keys are, how its file is read, and which values are refused.

An experiment file states only what differs. ``load_experiment`` reads it, applies ``key=value`` overrides (an OmegaConf
dotlist) and refuses unknown keys, wrong types and impossible values before any work starts.
"""

from probe_lab.config.load import EXPERIMENTS, SHIPPED, build_experiment, known_keys, load_experiment, with_changes
from probe_lab.config.schema import (
    BACKBONE,
    Axis,
    Backbone,
    Backend,
    CacheConfig,
    CaptureConfig,
    Data,
    EvaluatorModel,
    Experiment,
    Model,
    Offload,
    Precision,
    ProbeConfig,
    Prompts,
    Sampling,
    Scheduler,
    Scoring,
    Text,
    Tracking,
    Trainer,
)

__all__ = [
    "BACKBONE",
    "EXPERIMENTS",
    "SHIPPED",
    "Axis",
    "Backbone",
    "Backend",
    "CacheConfig",
    "CaptureConfig",
    "Data",
    "EvaluatorModel",
    "Experiment",
    "Model",
    "Offload",
    "Precision",
    "ProbeConfig",
    "Prompts",
    "Sampling",
    "Scheduler",
    "Scoring",
    "Text",
    "Tracking",
    "Trainer",
    "build_experiment",
    "known_keys",
    "load_experiment",
    "with_changes",
]
