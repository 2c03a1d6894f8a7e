"""One pass over images: model after model over a chunk of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.config import Scoring
from probe_lab.data.resident import available_memory
from probe_lab.evaluators.base import Evaluator, families
from probe_lab.evaluators.decode import Chunk, chunks

CHUNK_BYTES = 2**28
"""Of prepared pictures at a time. Two chunks exist at once: one is scored and the next one prepared."""
SWAP_SHARE, SWAP_BYTES = 8, 2**32
"""Where models take turns, a chunk is an eighth of the available memory, at most 4 GiB: the longer each model stays,
the less loading them counts."""
_BATCHES = 4
"""Batches of a model between two reports."""


@dataclass(frozen=True)
class Part:
    """Scores float32 [n] of samples, by evaluator; for those same evaluators, samples whose image is broken."""

    ids: list[int] = field(default_factory=list)
    scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    unreadable: list[int] = field(default_factory=list)


def score_here(
    cache: Cache, evaluators: Sequence[Evaluator], ids: NDArray[np.int64], scoring: Scoring, beside: int = 1
) -> Generator[Part]:
    """Scores of samples in this process: each image is decoded once, and one model is in memory at a time.

    Models stay only if ``scoring.resident``; ``beside`` processes of this machine, this one included, share the memory
    for pictures. ScoreError for what an evaluator cannot score.
    """
    together = families(evaluators)
    takes_turns = sum(members[0].has_model for members in together) > 1 and not scoring.resident
    limit = min(SWAP_BYTES, available_memory() // SWAP_SHARE) if takes_turns else CHUNK_BYTES // beside
    try:
        with chunks(cache, evaluators, ids, limit) as stream:
            for chunk in stream:
                if chunk.unreadable:
                    yield Part([], {each.name: np.zeros(0, np.float32) for each in evaluators}, chunk.unreadable)
                for members in together:
                    yield from _score_chunk(chunk, members, scoring.batch_size * _BATCHES)
                    if takes_turns:
                        release(members)
    finally:
        if not scoring.resident:
            release(evaluators)


def _score_chunk(chunk: Chunk, members: Sequence[Evaluator], size: int) -> Iterator[Part]:
    first = members[0]
    for start in range(0, len(chunk.ids), size):
        here = slice(start, start + size)
        inputs = [each[first.preprocessing] for each in chunk.inputs[here]]
        found = first.score_family(members, inputs, chunk.prompts[here])
        scores = {each.name: found[each.name].numpy().astype(np.float32) for each in members}
        yield Part(chunk.ids[here], scores)


def release(evaluators: Sequence[Evaluator]) -> None:
    """All of them: the first of a family has its model, but each may have a head of its own."""
    for each in evaluators:
        each.release()
