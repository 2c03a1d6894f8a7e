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
from probe_lab.evaluators.base import Card, Settings, available, card, is_known
from probe_lab.evaluators.checkpoints import Key, is_present
from probe_lab.terminal_tables import FittingTable

_ON_A_BASE = ("aesthetic",)
"""Evaluators of two checkpoints, their own and the model's that it sits on."""

_BESIDE_THE_NAME = 88
"""Columns of a terminal in which all that is known of an evaluator stands beside its name, in few lines."""


@dataclass(frozen=True)
class ListedEvaluator:
    """An evaluator and whether its weights are here: built in, yes, no, not set; imported and kept ones are scores."""

    name: str
    card: Card
    here: str


def list_evaluators(experiment: Experiment | None = None) -> list[ListedEvaluator]:
    """All of the catalogue; with an experiment also its labelled ones, and the imported and kept ones of its cache."""
    scoring = experiment.scoring if experiment else Scoring()
    names = {*available()}
    given = [each for each in _given(experiment.cache_folder) if each.name not in scoring.models] if experiment else []
    if experiment:
        names |= {*experiment.evaluators, *scoring.models} - {each.name for each in given}
    return [_listed(name, scoring) for name in sorted(names) if is_known(name)] + given


def evaluators_table(listed: Sequence[ListedEvaluator]) -> Group:
    """A line per evaluator, and below where weights come from; in narrow terminals model and licence stand there."""
    full = _table(listed, ("range", "model", "licence", "weights"))
    narrow = Group(_table(listed, ("range", "weights")), *_models(listed))
    wide = _BESIDE_THE_NAME + max(len(each.name) for each in listed)
    return Group(FittingTable(((wide, full),), narrow), *_sources(listed))


def _table(listed: Sequence[ListedEvaluator], columns: Sequence[str]) -> Table:
    table = Table()
    table.add_column("evaluator", no_wrap=True)
    table.add_column("measures")
    for name in columns:
        table.add_column(name, no_wrap=name != "model")
    for each in listed:
        about = each.card
        cells = {"range": about.range, "model": about.model, "licence": about.licence, "weights": each.here}
        table.add_row(each.name, about.measures, *(cells[name] for name in columns))
    return table


def _models(listed: Sequence[ListedEvaluator]) -> list[Text]:
    kinds = dict.fromkeys((each.card.model, each.card.licence) for each in listed if each.card.model)
    lines = [Text("\nModels and licences:")]
    for kind in kinds:
        members = [each.name for each in listed if (each.card.model, each.card.licence) == kind]
        lines += [Text(f"  {kind[0]} ({kind[1]})"), Text(f"    {', '.join(members)}")]
    return lines


def _sources(listed: Sequence[ListedEvaluator]) -> list[Text]:
    lines = [Text("\nReleased weights:")]
    for weights in dict.fromkeys(each.card.weights for each in listed if each.card.weights):
        members = [each for each in listed if each.card.weights == weights]
        files = dict.fromkeys(each.card.file for each in members if each.card.file)
        lines.append(Text(f"  {', '.join(each.name for each in members)}: {', '.join(files)}"))
        lines += [Text(f"    {source}", overflow="fold") for source in weights.split(", ")]
    return lines


def _listed(name: str, scoring: Scoring) -> ListedEvaluator:
    settings, about = Settings(name, scoring=scoring), card(name)
    if name in scoring.models:
        settings = Settings(name, scoring.models[name], scoring)
    keys: list[Key] = ["checkpoint", "base"] if name.partition("@")[0] in _ON_A_BASE else ["checkpoint"]
    if not any(getattr(settings.model, key) for key in keys):
        return ListedEvaluator(name, about, "not set" if about.weights else "built in")
    from probe_lab.evaluators.clip_spec import FILES  # a model library: only where there are weights to look for

    files = [*re.split(r" or |, ", about.file), *FILES]
    return ListedEvaluator(name, about, "yes" if all(is_present(settings, files, key) for key in keys) else "no")


def _given(folder: Path) -> list[ListedEvaluator]:
    """Scores of a cache that are not computed here: imported, or those of a former checkpoint."""
    found = []
    for name in stems(scores_path(folder, "x").parent, ".parquet"):
        try:
            stored = read_score_metadata(folder, name)
        except ScoreError:  # damaged: not what this list is about
            continue
        if IMPORTED in stored:
            found.append(ListedEvaluator(name, Card(f"imported from {stored[IMPORTED]}", "", ""), "imported"))
        elif stored.get("evaluator", name) != name and is_known(name):
            found.append(ListedEvaluator(name, card(name), "kept"))
    return found
