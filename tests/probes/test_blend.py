"""Shares of a probe's own prediction and of a picture judge."""

from __future__ import annotations

import torch
from torch import Tensor

from probe_lab.probes.heads import Blend


def drawn(prompts: int = 200, seeds: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prediction, what a judge says ``[n, 4]`` of two evaluators, target and prompt.

    The first evaluator's target is two of its predictions and three of what the judge says of the finished picture; all
    of the second's is upside down.
    """
    torch.manual_seed(0)
    count = prompts * seeds
    prediction, judged, prompt = torch.randn(count, 2), torch.randn(count, 4), torch.arange(count) // seeds
    hardness = 50 * torch.randn(prompts)[prompt]
    first = 2 * prediction[:, 0] + 3 * judged[:, 2] + hardness
    second = -prediction[:, 1] - judged[:, 1] - judged[:, 3]
    target = torch.stack([first, second], dim=1)
    return prediction, judged, target, prompt


def test_the_shares_are_those_that_tell_the_samples_of_a_prompt_apart() -> None:
    blend = Blend(2)
    prediction, judged, target, prompt = drawn()
    blend.fit(prediction, judged, target, prompt)
    torch.testing.assert_close(blend.own[0], torch.tensor(2.0))
    torch.testing.assert_close(blend.judge[:, 0], torch.tensor([0.0, 3.0]), atol=1e-5, rtol=0)
    expected = 2 * prediction[:, 0] + 3 * judged[:, 2]
    torch.testing.assert_close(blend(prediction, judged)[:, 0], expected, atol=1e-4, rtol=0)


def test_what_would_only_help_upside_down_counts_nothing() -> None:
    blend = Blend(2)
    prediction, judged, target, prompt = drawn()
    blend.fit(prediction, judged, target, prompt)
    torch.testing.assert_close(blend(prediction, judged)[:, 1], prediction[:, 1])  # as before the fit
    assert list(blend.parameters()) == []
    assert set(blend.state_dict()) == {"own", "judge"}
