"""Many comparisons at once: of twenty true zeros, one interval of 95 % excludes 0 by luck."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probe_lab.metrics.per_prompt import Floats


def holm(p_values: Sequence[float]) -> Floats:
    """Adjusted p-values of a family, in the order given (Holm 1979): max over ranks j ≤ i of (m − j + 1) p_(j), ≤ 1.

    Below 0.05 are comparisons of which, with 95 % chance, none is a true zero, however the comparisons depend on each
    other. What has no p-value (nan) stays so and is not of the family.
    """
    values = np.asarray(p_values, np.float64)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
