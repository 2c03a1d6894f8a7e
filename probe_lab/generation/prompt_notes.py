"""What a person should know of an experiment's prompts before images are made: what was dropped, splits, twins."""

from __future__ import annotations

import pandas as pd

from probe_lab.backbones.architectures import absent
from probe_lab.config import Experiment
from probe_lab.data.splits import SPLITS, SplitFractions, splits_of
from probe_lab.data.twins import Twins, twins_of
from probe_lab.generation.caption_sources import SOURCES
from probe_lab.generation.prompts import PromptSet, collect_prompts, prompt_table


def prompts_at_hand(experiment: Experiment) -> PromptSet | None:
    """The experiment's prompts; None where only a plan of published weights is wanted and they are elsewhere too."""
    prompts = experiment.prompts
    if absent(experiment.backbone) is not None and not SOURCES.get(prompts.source).is_here(prompts):
        return None
    return collect_prompts(prompts, experiment.seed)


def notes_of(chosen: PromptSet, experiment: Experiment) -> list[str]:
    """One line each: what became of the source's captions, how many prompts are in each split, which say the same."""
    table = prompt_table(chosen)
    fractions = experiment.data.split
    lines = [chosen.note(experiment.prompts.count), f"splits: {counted(table, fractions)}"]
    twins = twins_of(table, splits_of(table, fractions))
    return [line for line in (*lines, told(twins)) if line]


def counted(table: pd.DataFrame, fractions: SplitFractions) -> str:
    """How many prompts are in each split."""
    counts = splits_of(table, fractions).value_counts()
    return ", ".join(f"{int(counts.get(split, 0))} {split}" for split in SPLITS)


def told(twins: Twins) -> str:
    """The sentence about prompts that say the same; "" where none do."""
    if not twins.repeated:
        return ""
    return (
        f"twins: {twins.repeated} prompts say the same as an earlier one and are kept; {twins.leaked} of {twins.test} "
        "test prompts have a twin in another split"
    )
