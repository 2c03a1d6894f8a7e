"""Numbers that a probe reads beside its arrays: one per sample, made before training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.data.scalars import Scalar
from probe_lab.errors import ScoreError


def scalar_table(cache: Cache, step: int, scalars: Sequence[str]) -> Tensor:
    """Scalars of all samples, float32 [samples, S], row by sample_id; NaN in shards that are not complete.

    ScoreError for one that was not made, or not for every sample of the complete shards.
    """
    named = map(Scalar.parse, scalars)
    columns = [cache.preview_scores(each.evaluator, step, each.latent) for each in named]
    complete = cache.picture_samples["sample_id"].to_numpy()
    for scalar, column in zip(scalars, columns, strict=True):
        lacking = int(np.isnan(column[complete]).sum())
        if lacking:
            raise ScoreError(
                f"{lacking} of {len(complete)} samples of {cache.folder} have no {scalar} at step {step}: "
                "run `probe-lab score` again, it resumes"
            )
    return torch.from_numpy(np.stack(columns, axis=1))


def stored_previews(cache: Cache, step: int, evaluators: Sequence[str], preview: str = "x0") -> Tensor | None:
    """Scores of the previews of all samples, [samples, E], or None where some have to be decoded; ``preview`` as
    ``Scalar.latent``."""
    try:
        return scalar_table(cache, step, [str(Scalar(preview, evaluator)) for evaluator in evaluators])
    except ScoreError:
        return None
