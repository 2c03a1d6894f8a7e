"""A training that does not fit into memory is tried again in smaller pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from probe_lab.config import Experiment
from probe_lab.losses import parse_loss

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Reduction:
    """Batches of half as many prompts and twice as many of them per step, ``times`` over. ``error`` is the last one."""

    times: int = 0
    error: str = ""

    def applied(self, experiment: Experiment) -> Experiment:
        share = 2**self.times
        return replace(
            experiment,
            data=replace(experiment.data, batch_prompts=max(1, experiment.data.batch_prompts // share)),
            trainer=replace(experiment.trainer, accumulate=experiment.trainer.accumulate * share),
        )


def within_memory(experiment: Experiment, train: Callable[[Reduction], None]) -> None:
    """Call ``train``, and again with smaller batches while memory runs out and a batch has prompts to halve.

    InfoNCE keeps two prompts, of all processes together: against none other it is zero, whatever the probe does.
    """
    alone = experiment.trainer.devices == 1
    tried, least = Reduction(), 2 if alone and "infonce" in parse_loss(experiment.probe.loss) else 1
    while True:
        try:
            return train(tried)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or _prompts_of_a_rank(experiment) < least * 2 ** (tried.times + 1):
                raise
            tried = Reduction(tried.times + 1, " ".join(str(error).split())[:300] or type(error).__name__)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside the handler: its traceback keeps tensors alive


def _prompts_of_a_rank(experiment: Experiment) -> int:
    return experiment.data.batch_prompts // experiment.trainer.devices


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU, whose allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)
