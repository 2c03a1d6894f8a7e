"""The rule for the best epoch, against what a list of all values says."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.probes import Probe, ProbeSpec
from probe_lab.training.best_epoch import BestEpoch, weights_of

VALUES = st.sampled_from([math.nan, -1.0, 0.0, 0.5, 1.0])


@given(values=st.lists(VALUES, min_size=1, max_size=8))
def test_the_last_of_the_best_is_kept_and_its_first_counts_as_an_improvement(values: list[float]) -> None:
    best, probe = BestEpoch(), Probe(ProbeSpec("linear", {"x0": (4, 8, 8)}, ("good",), 5, 25))
    first = next(iter(probe.parameters()))
    for epoch, value in enumerate(values):
        with torch.no_grad():
            first.fill_(epoch)
        best.offer(epoch, value, probe)
    numbers = [value for value in values if not math.isnan(value)]
    kept = max(epoch for epoch, value in enumerate(values) if not numbers or value == max(numbers))
    name = next(name for name, parameter in probe.named_parameters() if parameter is first)
    assert set(best.weights) == set(weights_of(probe))
    assert (best.weights[name] == kept).all()
    assert best.improved == (values.index(max(numbers)) if numbers else 0)
    with torch.no_grad():
        first.fill_(-1)
    assert (best.weights[name] == kept).all()
