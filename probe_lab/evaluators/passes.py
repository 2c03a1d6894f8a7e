"""One pass over images: here, model after model over a chunk of them; or in several processes, without models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.config import Scoring
from probe_lab.data.resident import available_memory
from probe_lab.evaluators.base import Evaluator, create, families, prepared
from probe_lab.evaluators.decode import Chunk, chunks, decoded, raw_images
from probe_lab.evaluators.local_pool import scored_apart

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
    cache: Cache, evaluators: Sequence[Evaluator], ids: NDArray[np.int64], scoring: Scoring
) -> Iterator[Part]:
    """Scores of samples in this process: each image is decoded once, and one model is in memory at a time.

    Models stay only if ``scoring.resident``. ScoreError for what an evaluator cannot score.
    """
    together = families(evaluators)
    takes_turns = sum(members[0].has_model for members in together) > 1 and not scoring.resident
    limit = min(SWAP_BYTES, available_memory() // SWAP_SHARE) if takes_turns else CHUNK_BYTES
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


def score_apart(
    cache: Cache, names: Sequence[str], ids: NDArray[np.int64], scoring: Scoring, workers: int
) -> Iterator[Part]:
    """The same from ``workers`` processes, each with shards of its own and evaluators of its own: for exact ones.

    ScoreError too when a process dies.
    """
    of_shard = dict(list(cache.samples.iloc[ids].groupby("shard")["sample_id"]))
    jobs = [(cache, names, each.to_numpy(), scoring) for each in of_shard.values()]
    with closing(scored_apart(workers, _score_shard, jobs)) as found:
        for _, part in found:
            yield part


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


def _score_shard(cache: Cache, names: Sequence[str], ids: NDArray[np.int64], scoring: Scoring) -> Part:
    """One job of a worker."""
    evaluators = [create(name, scoring) for name in names]
    whole = Part(scores={name: np.zeros(0, np.float32) for name in names})
    stream = raw_images(cache, ids)
    while batch := list(islice(stream, scoring.batch_size)):
        images = [decoded(data, cache.manifest.pixels) for _, _, data in batch]
        chunk = Chunk()
        for raw, image in zip(batch, images, strict=True):
            chunk.add(raw, None if image is None else prepared(evaluators, image))
        whole.unreadable.extend(chunk.unreadable)
        whole.ids.extend(chunk.ids)
        for members in families(evaluators):
            for part in _score_chunk(chunk, members, scoring.batch_size):
                for name, values in part.scores.items():
                    whole.scores[name] = np.concatenate([whole.scores[name], values])
    return whole
