"""How evaluators agree: Spearman's correlation of every two, within prompts and over all images, and their spread.

Neither of two evaluators is the truth, so ties are treated alike on both sides: a prompt whose candidates all
have the same score from either of them says nothing about their agreement, and is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from probe_lab.errors import DataError
from probe_lab.metrics.bootstrap import Interval, PromptRatio, mean_over, resample
from probe_lab.metrics.correlation import CHUNK, Levels, Real, srcc_within
from probe_lab.metrics.measured import Measured, left_out_in_turn
from probe_lab.metrics.per_prompt import Bools, Counts, Floats, PromptTable, varies

EvaluatorPair = tuple[str, str]


@dataclass(frozen=True)
class Agreement:
    """Two evaluators on the ``images`` that both scored.

    ``within`` is the mean over prompts of Spearman's correlation among a prompt's candidates; its ``tied`` counts
    the prompts left out: all scores of one evaluator alike, or fewer than two images that both scored. ``overall``
    is Spearman's correlation over all those images, nan where one evaluator is constant.
    """

    within: Interval
    overall: Interval
    images: int


@dataclass(frozen=True)
class Spread:
    """How far apart the scores of one evaluator lie; ``missing`` images have none.

    ``deviation`` is the standard deviation over all images. ``within`` and ``range`` are means over prompts of the
    standard deviation (n − 1) and of highest − lowest score; they leave out prompts with fewer than two scores, and
    count the ``tied`` ones, whose scores are all alike, as 0.
    """

    images: int
    missing: int
    mean: float
    deviation: float
    within: Interval
    range: Interval
    tied: int


def agreements(
    scores: Mapping[str, npt.ArrayLike],
    prompt: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[EvaluatorPair, Agreement]:
    """Every two evaluators, in the order of ``scores``, with intervals over prompts.

    ``scores`` are ``[n]`` by evaluator, nan where an image has none, ``prompt [n]`` its prompt id. An image that
    one of two evaluators did not score is left out of that pair only. The interval over all images is symmetric in
    Fisher's z, with the standard error of a jackknife over prompts: images are ranked anew without each of them.

    Raises :class:`~probe_lab.errors.DataError` for arrays of different or wrong shape.
    """
    names, values, row = _checked(scores, prompt)
    known = ~np.isnan(values)
    grid = _by_prompt(values, row)
    draws = resample(grid.shape[1], resamples, seed)
    pairs = list(combinations(range(len(names)), 2))
    deleted = left_out_in_turn(grid.shape[1])
    overall = _overall(values, known, row, deleted, pairs)
    found = {}
    for a, b in pairs:
        both = known[a] & known[b]
        prompts = len(np.unique(row[both]))
        rest = deleted[:, np.unique(row[both])].min(axis=1, initial=1.0) < 1.0  # the others leave out nothing of these
        found[names[a], names[b]] = Agreement(
            within=_within(grid[a], grid[b]).interval(draws, confidence),
            overall=Measured.of_jackknife(
                overall[a, b][:1], overall[a, b][None, 1:][:, rest], prompts, "correlation"
            ).interval(draws, confidence),
            images=int(both.sum()),
        )
    return found


def spreads(
    scores: Mapping[str, npt.ArrayLike],
    prompt: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Spread]:
    """The spread of every evaluator; arguments, intervals and errors as in :func:`agreements`."""
    names, values, row = _checked(scores, prompt)
    draws = resample(int(row.max()) + 1, resamples, seed)
    return {
        name: _spread(own, grid, draws, confidence)
        for name, own, grid in zip(names, values, _by_prompt(values, row), strict=True)
    }


def _checked(scores: Mapping[str, npt.ArrayLike], prompt: npt.ArrayLike) -> tuple[list[str], Floats, Counts]:
    """Names, values ``[E, n]`` and for each image the index of its prompt, ``[n]``."""
    arrays = {name: np.asarray(values, np.float64) for name, values in scores.items()}
    prompts = np.asarray(prompt)
    wrong = [name for name, array in arrays.items() if array.shape != prompts.shape]
    if not arrays or wrong or prompts.ndim != 1 or not prompts.size:
        shapes = {name: arrays[name].shape for name in wrong}
        raise DataError(
            f"scores of the shapes {shapes} do not belong to prompt ids of the shape {prompts.shape}: "
            "pass arrays [n] of the same length n ≥ 1, of one evaluator or more"
        )
    return list(arrays), np.stack([*arrays.values()]), np.unique(prompts, return_inverse=True)[1]


def _by_prompt(values: Floats, row: Counts) -> Floats:
    """``[E, P, M]``: the values ``[E, n]`` of each prompt side by side, nan where it has fewer than M."""
    size = np.bincount(row)
    grid = np.full((len(values), len(size), size.max()), np.nan)
    grid[:, np.arange(size.max()) < size[:, None]] = values[:, np.argsort(row, kind="stable")]
    return grid


def _within(first: Floats, second: Floats) -> PromptRatio:
    """Mean over prompts of Spearman's correlation of the rows of two ``[P, M]`` arrays."""
    both = ~(np.isnan(first) | np.isnan(second))
    table = PromptTable(np.where(both, first, 0.0), np.where(both, second, 0.0), both)
    return mean_over(srcc_within(table).numerator, table.tied | ~varies(table.prediction_signs), "signed")


def _overall(
    values: Floats, known: Bools, row: Counts, draws: Floats, pairs: list[tuple[int, int]]
) -> dict[tuple[int, int], Floats]:
    """Per pair ``[1 + R]``: Spearman over all images that both scored, as they are and in every sample ``draws``."""
    # Evaluators are ranked once for all the pairs that share their images: mostly there is a single such group.
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for a, b in pairs:
        groups.setdefault((known[a] & known[b]).tobytes(), []).append((a, b))
    found: dict[tuple[int, int], Floats] = {}
    for mask, members in groups.items():
        both = np.frombuffer(mask, np.bool_)
        used = sorted({i for pair in members for i in pair})
        levels = [Levels.of(values[i, both]) for i in used]
        exact = _spearman(levels, row[both], np.ones((1, draws.shape[1])))
        # Ranks are counts and halves of counts, which float32 holds exactly up to 8 million images.
        matrices = np.concatenate([exact, _spearman(levels, row[both], draws.astype(np.float32))])
        found |= {(a, b): matrices[:, used.index(a), used.index(b)] for a, b in members}
    return found


def _spearman(levels: list[Levels], row: Counts, draws: npt.NDArray[Real]) -> Floats:
    """``[R, K, K]``: correlations of K evaluators, each image counting as often as its prompt ``row`` was drawn."""
    rows = max(1, CHUNK // max(1, row.size))
    parts = [_spearman_of(levels, row, draws[start : start + rows]) for start in range(0, len(draws), rows)]
    return np.concatenate(parts)


def _spearman_of(levels: list[Levels], row: Counts, draws: npt.NDArray[Real]) -> Floats:
    weight = draws[:, row]
    total = weight.sum(axis=1, keepdims=True)
    ranks = np.empty((len(draws), len(levels), row.size), draws.dtype)
    for i, each in enumerate(levels):
        mass = each.mass(weight)
        centred = np.cumsum(mass, axis=1) - 0.5 * mass - 0.5 * total
        ranks[:, i] = centred[:, each.level]
    ranks *= (np.sqrt(weight) / np.maximum(total, 1.0))[:, None]
    products = np.asarray(ranks @ ranks.transpose(0, 2, 1), np.float64)
    norm = np.sqrt(np.einsum("rii->ri", products))
    with np.errstate(invalid="ignore"):
        return np.clip(products / (norm[:, :, None] * norm[:, None, :]), -1.0, 1.0)


def _spread(values: Floats, grid: Floats, draws: Floats, confidence: float) -> Spread:
    known = values[~np.isnan(values)]
    present = ~np.isnan(grid)
    size = present.sum(axis=1)
    single = size < 2
    mean = np.where(present, grid, 0.0).sum(axis=1) / np.maximum(size, 1)
    centred = np.where(present, grid - mean[:, None], 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1) / np.maximum(size - 1, 1))
    extent = np.where(present, grid, -np.inf).max(axis=1) - np.where(present, grid, np.inf).min(axis=1)
    return Spread(
        images=known.size,
        missing=values.size - known.size,
        mean=float(known.mean()) if known.size else np.nan,
        deviation=float(known.std(ddof=1)) if known.size > 1 else np.nan,
        within=mean_over(deviation, single).interval(draws, confidence),
        range=mean_over(extent, single).interval(draws, confidence),
        tied=int((~single & (extent == 0)).sum()),
    )
