"""A finished cell: what its files say, each file being compared with its checksum before it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe_lab.errors import ReportError
from probe_lab.regular_files import regular
from probe_lab.runs.configs import Configs, Flat
from probe_lab.runs.files import AGAIN, CONFIG, DESCRIPTION, read_metrics, read_predictions, require_files

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Measure:
    """One number of a cell, on one split; ``column`` is its name in MLflow (which writes ":" for "@")."""

    split: str
    evaluator: str
    metric: str

    @property
    def column(self) -> str:
        return f"{'' if self.split == 'test' else f'{self.split}/'}{self.evaluator}/{self.metric}"


@dataclass(frozen=True)
class FinishedCell:
    """One trained cell: ``content`` is its ``metrics.json``, ``experiment`` the name of the runs folder that it is in.

    Its other files are read when they are asked for.

    Reading one of them raises ReportError where it is missing, damaged, or not the one that was written with
    ``content``.
    """

    folder: Path
    content: Mapping[str, Any]
    experiment: str
    configs: Configs = field(default_factory=Configs, repr=False, compare=False)

    @classmethod
    def read(cls, folder: Path) -> FinishedCell:
        """The cell in ``folder``. ReportError where its ``metrics.json`` is missing, damaged or another cell's."""
        return cls(folder, read_metrics(folder), folder.parent.name)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def model(self) -> str:
        return str(self.content["model"])

    @property
    def step(self) -> int:
        return int(self.content["step"])

    @property
    def taps(self) -> str:
        """The taps that it reads, joined by "+"."""
        return "+".join(self.content["taps"])

    @property
    def seed(self) -> int:
        """Of its training."""
        return int(self.content["seed"])

    @property
    def seconds(self) -> float:
        """How long its training took."""
        return float(self.content.get("seconds") or 0.0)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Losses and validation values after each epoch; empty for what is not trained by epochs."""
        return list(self.content.get("history", ()))

    @property
    def digest(self) -> str:
        """SHA-256 of all that its ``metrics.json`` says; "" for cells from before there was one."""
        return str(self.content.get("digest", ""))

    def require(self, *names: str) -> None:
        """ReportError for the first of these files that is not the one which was written with the cell."""
        require_files(self.folder, self.content, names)

    @cached_property
    def config(self) -> Flat:
        """Its configuration as dotted keys, with the defaults of keys that came later."""
        if not self.config_text:
            raise ReportError(f"{self.folder / CONFIG} cannot be read (it is missing or empty): {AGAIN}")
        return self.configs.complete(self.written)

    @cached_property
    def written(self) -> Flat:
        """What its configuration says, as dotted keys; nothing where it has none."""
        return self.configs.read(self.config_text, self.folder / CONFIG)

    @cached_property
    def config_text(self) -> str:
        """The YAML text of its configuration, "" where it has none."""
        path = self.folder / CONFIG
        self.require(CONFIG)
        try:
            return regular(path).read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, ValueError) as error:
            raise ReportError(f"{path} cannot be read ({error}): {AGAIN}") from error

    def predictions(self) -> pd.DataFrame:
        """One row per sample and evaluator of the validation and test splits: sample_id, prompt_id, seed, split,
        evaluator, target, prediction. Read anew each time."""
        return read_predictions(self.folder, self.content)

    @property
    def keeps_probe(self) -> bool:
        """Whether a probe lies among its files."""
        return (self.folder / DESCRIPTION).is_file()

    @cached_property
    def entries(self) -> dict[tuple[str, str, str], Mapping[str, Any]]:
        """The metrics by split, evaluator and name."""
        return {(entry["split"], entry["evaluator"], entry["metric"]): entry for entry in self.content["metrics"]}

    @cached_property
    def evaluators(self) -> tuple[str, ...]:
        """What the cell predicts, in the order of its file."""
        return tuple(dict.fromkeys(entry["evaluator"] for entry in self.content["metrics"]))

    def number(self, measure: Measure, part: str) -> float:
        """``estimate``, ``lower`` or ``upper``; nan where the cell has none."""
        value = self.entries.get((measure.split, measure.evaluator, measure.metric), {}).get(part)
        return math.nan if value is None else float(value)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Evaluator -> the score above which its AUC counts an image as good; empty in older cells."""
        thresholds: Mapping[str, float] = self.content.get("thresholds", {})
        return thresholds

    @property
    def stopped(self) -> str:
        """Who ended the training early, and after how many epochs; empty where nobody did."""
        ended = self.content.get("stopped")
        return f"{ended['by']}, {ended['epochs']} epochs" if ended else ""

    @property
    def halved(self) -> bool:
        """Whether successive halving ended the training early."""
        return bool(self.content.get("stopped", {}).get("by") == "halving")

    @property
    def reduced(self) -> str:
        """How small its batches became as memory ran out; empty where they are those that were asked for."""
        smaller = self.content.get("reduced")
        return f"{smaller['batch_prompts']} prompts per batch" if smaller else ""

    @property
    def train_prompts(self) -> int:
        """How many prompts it was trained on; 0 in older cells, which do not say."""
        return int(self.content.get("train_prompts") or 0)

    @property
    def shuffles(self) -> int:
        """How often it was trained, each time on other shuffled labels; 1 for a cell of true labels."""
        return int(self.content.get("shuffles") or 1)
