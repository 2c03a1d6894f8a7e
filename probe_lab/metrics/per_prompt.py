"""The candidates of every prompt side by side: where arrays are checked, and the layout of all metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from probe_lab.errors import DataError, ScoreError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Signs = npt.NDArray[np.int8]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PromptTable:
    """Predictions and targets of P prompts with up to M candidates each, one prompt per row.

    ``prediction`` and ``target`` are ``[P, M]`` float64 and hold 0 where ``present [P, M]`` is False. Prompts
    are in the order of their ids, candidates in the order given.
    """

    prediction: Floats
    target: Floats
    present: Bools

    @cached_property
    def size(self) -> Counts:
        """``[P]``: candidates of each prompt, at least 1."""
        size: Counts = self.present.sum(axis=1)
        return size

    @cached_property
    def pairs(self) -> Bools:
        """``[P, M, M]``: both candidates are there."""
        return self.present[:, :, None] & self.present[:, None, :]

    @cached_property
    def prediction_signs(self) -> Signs:
        """``[P, M, M]``: sign of prediction i − prediction j; 0 for ties and missing candidates."""
        return _signs(self.prediction, self.pairs)

    @cached_property
    def target_signs(self) -> Signs:
        """``[P, M, M]``: sign of target i − target j; 0 for ties and missing candidates."""
        return _signs(self.target, self.pairs)

    @cached_property
    def tied(self) -> Bools:
        """``[P]``: all candidates have the same target (a single one always), so none can be ranked."""
        return ~varies(self.target_signs)


def varies(signs: Signs) -> Bools:
    """``[P]``: whether the candidates of a prompt have more than one value."""
    return np.asarray(signs.any(axis=(1, 2)), np.bool_)


def prompt_table(prediction: npt.ArrayLike, target: npt.ArrayLike, prompt: npt.ArrayLike) -> PromptTable:
    """Lay out flat arrays ``[n]`` by prompt; its rows need not be adjacent, and prompts may differ in size.

    Raises :class:`~probe_lab.errors.DataError` when the arrays are empty, not flat or not equally long, and
    :class:`~probe_lab.errors.ScoreError` when a prediction or a target is not finite.
    """
    predictions, targets = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    prompts = np.asarray(prompt)
    shapes = predictions.shape, targets.shape, prompts.shape
    if len(set(shapes)) != 1 or predictions.ndim != 1 or predictions.size == 0:
        raise DataError(
            f"prediction, target and prompt have the shapes {shapes[0]}, {shapes[1]}, {shapes[2]}: "
            "pass three arrays [n] of the same length n ≥ 1"
        )
    for name, values in (("prediction", predictions), ("target", targets)):
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ScoreError(
                f"{name} {bad[0]} of {values.size} is {values[bad[0]]} ({bad.size} are not finite): "
                "drop these rows, or find out why they have no value"
            )
    _, row, size = np.unique(prompts, return_inverse=True, return_counts=True)
    order = np.argsort(row, kind="stable")
    present = np.arange(size.max()) < size[:, None]
    table = np.zeros((2, *present.shape))
    table[:, present] = predictions[order], targets[order]
    return PromptTable(prediction=table[0], target=table[1], present=present)


def _signs(values: Floats, pairs: Bools) -> Signs:
    first, second = values[:, :, None], values[:, None, :]
    return ((first > second).view(np.int8) - (first < second).view(np.int8)) * pairs.view(np.int8)
