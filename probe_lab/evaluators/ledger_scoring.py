"""Scoring by several processes into ledgers, which are saved as the scores come."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from probe_lab.config import Engine, Experiment
from probe_lab.engines import Site, deaths_as, open_pool
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Evaluator
from probe_lab.evaluators.lacking import Ledger
from probe_lab.evaluators.score_worker import AGAIN, scoring_workers
from probe_lab.evaluators.scoring_run import SAVE_EVERY
from probe_lab.progress import OnProgress


def scoring_processes(experiment: Experiment, evaluators: Iterable[Evaluator]) -> int:
    """How many processes decode and score side by side: ``experiment.workers`` where nothing runs on a card and no
    evaluator has a model, else one."""
    alone = not experiment.sampling.on_cpu or any(evaluator.has_model for evaluator in evaluators)
    return 1 if alone else experiment.workers


def score_into(
    ledgers: Collection[Ledger],
    tasks: Sequence[Any],
    worker: Callable[[Site], Any],
    enter: Callable[[Any, Any], int],
    *,
    experiment: Experiment,
    total: int,
    on_progress: OnProgress,
) -> None:
    """Have ``tasks`` done by workers that ``worker`` makes, and ``enter(task, result)`` what each gives, which says how
    many of the ``total`` scores that decides.

    Where ``scoring_processes`` is one, or there is one task, this process works alone. ScoreError where one dies.
    """
    done = total - sum(len(ledger.pending) for ledger in ledgers)
    count = min(scoring_processes(experiment, [ledger.evaluator for ledger in ledgers]), max(len(tasks), 1))
    spec = scoring_workers(worker, count, takes_part=count == 1)
    saved = time.monotonic()
    # The workers first: while there is no other thread, that of a display for instance, they can be forked.
    with deaths_as(ScoreError, AGAIN), open_pool(Engine(), spec) as pool:
        on_progress(done, total)
        for task, result in pool.results({None: tasks}):
            done += enter(task, result)
            on_progress(done, total)
            if time.monotonic() - saved > SAVE_EVERY:
                for ledger in ledgers:
                    ledger.save()
                saved = time.monotonic()
