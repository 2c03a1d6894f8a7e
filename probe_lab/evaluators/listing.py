"""Every evaluator, what it measures and whether it can run here: what ``probe-lab evaluators`` prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from probe_lab.cache.layout import scores_path, stems
from probe_lab.cache.scores import IMPORTED, read_score_metadata
from probe_lab.config import Experiment, Scoring
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Card, Settings, available, card
from probe_lab.evaluators.checkpoints import Key, is_present
from probe_lab.evaluators.clip_spec import FILES

_ON_A_BASE = ("aesthetic",)
"""Evaluators of two checkpoints, their own and the model's that it sits on."""


@dataclass(frozen=True)
class Listed:
    """An evaluator and whether its weights are here: built in, yes, no, not set, imported."""

    name: str
    card: Card
    here: str


def list_evaluators(experiment: Experiment | None = None) -> list[Listed]:
    """All of the catalogue; with an experiment also its labelled ones and those imported into its cache."""
    scoring = experiment.scoring if experiment else Scoring()
    names = list(available())
    if experiment:
        names += sorted({*experiment.evaluators, *scoring.models} - set(names))
    found = [_listed(name, scoring) for name in names if name.partition("@")[0] in available()]
    return found + (_imported(experiment.cache_folder) if experiment else [])


def evaluators_table(listed: Sequence[Listed]) -> Group:
    """A line per evaluator, and below where weights come from."""
    table = Table()
    table.add_column("evaluator", no_wrap=True)
    table.add_column("measures")
    table.add_column("range", no_wrap=True)
    table.add_column("model")
    table.add_column("licence", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for each in listed:
        about = each.card
        table.add_row(each.name, about.measures, about.range, about.model, about.licence, each.here)
    lines = [Text("\nReleased weights:")]
    for weights in dict.fromkeys(each.card.weights for each in listed if each.card.weights):
        members = [each for each in listed if each.card.weights == weights]
        files = dict.fromkeys(each.card.file for each in members if each.card.file)
        lines.append(Text(f"  {', '.join(each.name for each in members)}: {', '.join(files)}"))
        lines += [Text(f"    {source}", overflow="fold") for source in weights.split(", ")]
    return Group(table, *lines)


def _listed(name: str, scoring: Scoring) -> Listed:
    settings, about = Settings(name, scoring=scoring), card(name)
    if name in scoring.models:
        settings = Settings(name, scoring.models[name], scoring)
    keys: list[Key] = ["checkpoint", "base"] if name.partition("@")[0] in _ON_A_BASE else ["checkpoint"]
    if not any(getattr(settings.model, key) for key in keys):
        return Listed(name, about, "not set" if about.weights else "built in")
    files = [*re.split(r" or |, ", about.file), *FILES]
    return Listed(name, about, "yes" if all(is_present(settings, files, key) for key in keys) else "no")


def _imported(folder: Path) -> list[Listed]:
    found = []
    for name in stems(scores_path(folder, "x").parent, ".parquet"):
        try:
            source = read_score_metadata(folder, name).get(IMPORTED)
        except ScoreError:  # damaged: not what this list is about
            continue
        if source is not None:
            found.append(Listed(name, Card(f"imported from {source}", ""), "imported"))
    return found
