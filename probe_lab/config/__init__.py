"""The experiment: what its keys are, how its file is read, and which values are refused.

An experiment file states only what differs. ``load_experiment`` reads it, applies ``key=value`` overrides (an OmegaConf
dotlist) and refuses unknown keys, wrong types and impossible values before any work starts.
"""

from probe_lab.config.changes import changed_unchecked, is_simple, typed, with_changes, with_values
from probe_lab.config.choice import Choice, Operand
from probe_lab.config.keys import known_keys
from probe_lab.config.load import EXPERIMENTS, SHIPPED, build_experiment, load_experiment
from probe_lab.config.schema import (
    BACKBONE,
    Axis,
    Backend,
    Conditional,
    Data,
    Engine,
    EngineName,
    EvaluatorModel,
    Experiment,
    Grid,
    Halving,
    Head,
    Metrics,
    Negatives,
    ProbeConfig,
    Scoring,
    Select,
    Text,
    Tracking,
    TradeoffConfig,
    Trainer,
)
from probe_lab.config.world import (
    Backbone,
    CacheConfig,
    CaptureConfig,
    Offload,
    Precision,
    Prompts,
    Sampling,
    Scheduler,
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
    "Choice",
    "Conditional",
    "Data",
    "Engine",
    "EngineName",
    "EvaluatorModel",
    "Experiment",
    "Grid",
    "Halving",
    "Head",
    "Metrics",
    "Negatives",
    "Offload",
    "Operand",
    "Precision",
    "ProbeConfig",
    "Prompts",
    "Sampling",
    "Scheduler",
    "Scoring",
    "Select",
    "Text",
    "Tracking",
    "Tradeoff",
    "TradeoffConfig",
    "Trainer",
    "Value",
    "build_experiment",
    "changed_unchecked",
    "is_simple",
    "known_keys",
    "load_experiment",
    "typed",
    "with_changes",
    "with_values",
]

Tradeoff = TradeoffConfig
Value = Operand
"""Names of before, for code that has them."""
