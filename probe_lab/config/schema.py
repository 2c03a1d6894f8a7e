"""The typed experiment: frozen dataclasses with every key and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from probe_lab.config.declare import SEED, key, positive, section_field
from probe_lab.config.environment import Written, as_written
from probe_lab.config.judge_section import JudgeConfig
from probe_lab.config.labels_section import LabelsConfig
from probe_lab.config.training_sections import BACKBONE as BACKBONE
from probe_lab.config.training_sections import Backend as Backend
from probe_lab.config.training_sections import Data as Data
from probe_lab.config.training_sections import EvaluatorModel as EvaluatorModel
from probe_lab.config.training_sections import Halving as Halving
from probe_lab.config.training_sections import Head as Head
from probe_lab.config.training_sections import Metrics as Metrics
from probe_lab.config.training_sections import Negatives as Negatives
from probe_lab.config.training_sections import ProbeConfig as ProbeConfig
from probe_lab.config.training_sections import Scoring as Scoring
from probe_lab.config.training_sections import Text as Text
from probe_lab.config.training_sections import Trainer as Trainer
from probe_lab.config.use_sections import EXHIBITS as EXHIBITS
from probe_lab.config.use_sections import Engine as Engine
from probe_lab.config.use_sections import Paper as Paper
from probe_lab.config.use_sections import Select as Select
from probe_lab.config.use_sections import Tracking as Tracking
from probe_lab.config.use_sections import TradeoffConfig as TradeoffConfig
from probe_lab.config.world_sections import Backbone, CacheConfig, CaptureConfig, Prompts, Sampling


@dataclass(frozen=True)
class Conditional:
    """The values that a key takes only where ``condition`` holds; at other points of a grid it keeps the
    experiment's own."""

    values: tuple[Any, ...]
    condition: str


Axis = tuple[Any, ...] | Conditional
"""The values that one key takes in a sweep; a value is whatever the key holds, a list of taps for instance."""
Grid = Mapping[str, Axis]


@dataclass(frozen=True)
class Schema:
    """Every key of an experiment but its sweep, whose values have as many types as there are keys."""

    name: str = key(
        "", "Name of the experiment, of its folders and its runs. Empty: that of the file.", in_result=False
    )
    seed: int = key(0, "Seed of the prompts that are drawn and of every image's noise.", SEED)
    backbone: Backbone = section_field(Backbone)
    prompts: Prompts = section_field(Prompts)
    sampling: Sampling = section_field(Sampling)
    capture: CaptureConfig = section_field(CaptureConfig, in_result=False)
    cache: CacheConfig = section_field(CacheConfig)
    evaluators: list[str] = key(
        ["shapes_reward"],
        "Evaluators that score the images. `probe-lab evaluators` lists them; your own is `module:class`.",
        allowed="at least one",
    )
    scoring: Scoring = section_field(Scoring)
    labels: LabelsConfig = section_field(LabelsConfig, in_result=False)
    judge: JudgeConfig = section_field(JudgeConfig)
    text: Text = section_field(Text)
    data: Data = section_field(Data)
    probe: ProbeConfig = section_field(ProbeConfig)
    trainer: Trainer = section_field(Trainer)
    metrics: Metrics = section_field(Metrics)
    halving: Halving = section_field(Halving, in_result=False)
    select: Select = section_field(Select, in_result=False)
    tradeoff: TradeoffConfig = section_field(TradeoffConfig, in_result=False)
    engine: Engine = section_field(Engine, in_result=False)
    paper: Paper = section_field(Paper, in_result=False)
    tracking: Tracking = section_field(Tracking, in_result=False)
    workers: int = key(2, "Processes that generate, score and train at a time.", positive(4_096), in_result=False)
    runs: str = key("runs", "Folder of results.", in_result=False)
    reports: str = key("reports", "Folder of reports.", in_result=False)
    report_sections: list[str] = key(
        [], "Further sections of the report, of your own.", allowed="names of `module:attribute`", in_result=False
    )
    plugins: list[str] = key(
        [],
        "Python files to import first, so that `module:attribute` finds them. Paths are relative to the file of the "
        "experiment.",
        in_result=False,
    )

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache.root) / (self.cache.name or self.name)

    @property
    def runs_folder(self) -> Path:
        return Path(self.runs) / self.name

    @property
    def report_folder(self) -> Path:
        exhibit = self.paper.exhibit
        own = exhibit in ("", self.name)  # an exhibit of another experiment must not replace its report
        return Path(self.reports) / (self.name if own else f"{self.name}_{exhibit}")

    @property
    def judged_steps(self) -> list[int]:
        """The steps whose x₀ picture judges learn to read, in order."""
        return sorted({*self.labels.steps, *self.judge.steps})

    @property
    def probe_evaluators(self) -> list[str]:
        """The evaluators that probes predict: the probe's own list, or all."""
        return list(self.probe.evaluators or self.evaluators)


@dataclass(frozen=True)
class Experiment(Schema):
    """One experiment file with its overrides. ``sweep`` is a union of grids, each a mapping from key to values.

    ``only`` chooses among their cells (``sweep.select`` in a file), ``sets`` are named lists of taps (``sweep.sets``).
    ``asked`` is what the command line said, the file and its overrides, to repeat in messages. ``written`` holds the
    texts whose values came from the environment.
    """

    sweep: tuple[Grid, ...] = ()
    only: str = ""
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: tuple[str, ...] = field(default=(), compare=False, repr=False)
    written: Written = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as an experiment file would hold them."""
        keys = Schema(**{f.name: getattr(self, f.name) for f in fields(Schema)})
        content = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(keys)))
        grids = [{key: _plain(axis) for key, axis in grid.items()} for grid in self.sweep]
        further = {"select": self.only, "sets": {name: list(taps) for name, taps in self.sets.items()}}
        said = {key: value for key, value in further.items() if value}
        content["sweep"] = said | {"grids": grids} if said else grids
        return content

    def stored(self) -> dict[str, Any]:
        """``to_dict`` as it is written to files: values from the environment are the texts that read them."""
        content: dict[str, Any] = as_written(self.to_dict(), self.written)
        return content

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.stored()))


def _plain(axis: Axis) -> Any:
    if isinstance(axis, Conditional):
        return {"values": list(axis.values), "if": axis.condition}
    return list(axis)
