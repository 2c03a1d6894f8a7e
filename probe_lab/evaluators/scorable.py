"""Whether the prompts of an experiment are such that its evaluators can score them, told before anything is made."""

from __future__ import annotations

from collections.abc import Sequence

from probe_lab.config import Experiment
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import card, create, is_known
from probe_lab.evaluators.scoring_run import is_given

_SHOWN = 3


def unscorable_note(experiment: Experiment, prompts: Sequence[str]) -> str:
    """One sentence about the first evaluator that cannot score some of the prompts, with the first of them; "" where
    all can. Scores that come from elsewhere are no concern of ours, nor is a cache without images."""
    if not experiment.capture.images:
        return ""
    for name in experiment.evaluators:
        known = is_known(name)
        # Those with weights to fetch read any text, and need not be where images are made.
        if not known or card(name).weights or is_given(experiment.cache_folder, name, experiment.scoring):
            continue
        refused = create(name, experiment.scoring).unscorable(prompts)
        if refused:
            shown = ", ".join(f"'{prompt}'" for prompt in refused[:_SHOWN])
            further = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
            return (
                f"the evaluator {name} cannot score {len(refused)} of the {len(prompts)} prompts, {shown}{further}: "
                "take it out of 'evaluators', or set prompts.source=shapes"
            )
    return ""


def require_scorable(experiment: Experiment, prompts: Sequence[str]) -> None:
    """ScoreError with the sentence of ``unscorable_note``, where there is one."""
    if note := unscorable_note(experiment, prompts):
        raise ScoreError(note)
