"""The rule for the best epoch of a training, and the weights that it leaves."""

from __future__ import annotations

import math

from torch import Tensor

from probe_lab.probes import Probe


class BestEpoch:
    """The weights of the epoch with the highest validation value; of equal ones, those of the last.

    ``improved`` is the last epoch that was better than all before it, from 0. Where no prompt can be ranked (the value
    is nan) the last epoch is kept; a number is better than that.
    """

    def __init__(self) -> None:
        self.value = -math.inf
        self.improved = 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, value: float, probe: Probe) -> None:
        """Keep the weights of the probe after an epoch, unless an earlier one was better."""
        if value < self.value or (math.isnan(value) and math.isfinite(self.value)):
            return
        if value > self.value or (math.isnan(self.value) and not math.isnan(value)):
            self.improved = epoch
        self.value, self.weights = value, weights_of(probe)


def weights_of(probe: Probe) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, by their names."""
    return {name: value.clone() for name, value in probe.state_dict().items()}
