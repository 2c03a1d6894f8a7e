"""The pure part: who reads what, when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.data.sample_order import batch_bounds, repeats, worker_batches


@given(st.integers(1, 200), st.integers(2, 20), st.integers(1, 9))
def test_ranks_share_the_groups_in_equally_many_batches(groups: int, size: int, ranks: int) -> None:
    if groups < ranks:
        return
    bounds = [batch_bounds(groups, size, rank, ranks) for rank in range(ranks)]
    assert len({len(edges) for edges in bounds}) == 1
    seen = np.concatenate([np.arange(edges[0], edges[-1]) for edges in bounds])
    assert np.array_equal(seen, np.arange(groups))
    sizes = np.concatenate([np.diff(edges) for edges in bounds])
    assert sizes.min() >= 1
    assert sizes.max() <= size
    assert sizes.max() - sizes.min() <= 1 or ranks > 1


@given(st.integers(0, 60), st.integers(1, 7), st.data())
def test_workers_asked_in_turn_continue_where_the_epoch_was_left(
    batches: int, workers: int, data: st.DataObject
) -> None:
    def epoch(done: int) -> list[int]:
        """What a DataLoader delivers: a batch of each worker in turn, until none has any left."""
        queues = [list(worker_batches(batches, done, worker, workers)) for worker in range(workers)]
        found = []
        while any(queues):
            for queue in queues:
                if queue:
                    found.append(queue.pop(0))
        return found

    whole = epoch(0)
    assert sorted(whole) == list(range(batches))
    done = data.draw(st.integers(0, batches))
    assert epoch(done) == whole[done:]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.floats(0, 20), st.integers(0, 1000))
def test_oversampling_keeps_the_length_of_the_epoch(scores: list[float], strength: float, seed: int) -> None:
    found = repeats(np.array(scores), strength, np.random.default_rng(seed))
    assert found.sum() == len(scores)
    assert found.min() >= 0
    if strength == 0:
        assert (found == 1).all()


def test_oversampling_expectation_is_the_documented_one() -> None:
    scores = np.array([5.0, -1.0, 3.0, 0.0, 3.0])
    rng = np.random.default_rng(0)
    mean = np.mean([repeats(scores, 2.0, rng) for _ in range(4000)], axis=0)
    rank = np.array([0, 4, 1.5, 3, 1.5]) / 4
    weight = 1 + 2 * rank
    assert mean == pytest.approx(weight / weight.mean(), abs=0.03)
