"""Shares of a probe's own prediction and of a picture judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from probe_lab.data import Batch
from probe_lab.errors import ProbeError
from probe_lab.probes import Inputs, load_probe
from probe_lab.probes.checkpoint import save_probe
from probe_lab.probes.heads import Blend
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec
from probe_lab.training.cross_fitted import validation_predictions
from probe_lab.training.validated_batches import Validated


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


def judged_probe() -> tuple[Probe, Inputs]:
    """A ridge regression of two evaluators that has a judge beside it, and what it may be given for three samples."""
    torch.manual_seed(0)
    spec = ProbeSpec(
        "linear", {"x0": (4, 16, 16)}, ("good", "better"), 5, 25, text_dim=6, token_dim=6, tokens=5, judge=True
    )
    probe = Probe(spec).eval()
    probe.standardise_targets(torch.tensor([5.0, -2.0]), torch.tensor([2.0, 0.5]), torch.zeros(2))
    assert probe.blend is not None
    probe.blend.judge.copy_(torch.tensor([[0.5, 0.0], [0.25, 1.0]]))
    text = torch.zeros(1, 6), torch.randn(1, 5, 6), torch.ones(1, 5, dtype=torch.bool)
    return probe, Inputs(
        {"x0": torch.randn(3, 4, 16, 16)}, torch.full((3,), 5), torch.zeros(3, dtype=torch.int64), *text
    )


def test_answers_are_added_in_the_units_of_the_evaluators() -> None:
    probe, inputs = judged_probe()
    raw = torch.tensor([[5.0, -2.0, 5.0, -2.0], [7.0, -2.0, 5.0, -2.0], [5.0, -2.0, 5.0, -1.5]])  # E of both questions
    own = probe.predict(replace(inputs, scalars=raw[:1].expand(3, -1)))  # everywhere the evaluators' means
    more = probe.predict(replace(inputs, scalars=raw)) - own
    torch.testing.assert_close(more, torch.tensor([[0.0, 0.0], [0.5 * 2.0, 0.0], [0.0, 1.0 * 0.5]]))


def test_validation_prompts_are_predicted_in_shares_that_others_decide() -> None:
    probe, inputs = judged_probe()
    torch.manual_seed(1)
    features, answers, targets = torch.randn(48, 4, 16, 16), torch.randn(48, 4), torch.randn(48, 2)
    prompt = torch.arange(48) // 8

    def predicted(targets: Tensor) -> Tensor:
        text = tuple(values.expand(48, *values.shape[1:]) for values in (inputs.text, inputs.tokens, inputs.token_mask))
        batch = Batch({"x0": features}, targets, prompt, torch.arange(48), torch.full((48,), 5), *text, scalars=answers)
        return validation_predictions(probe, Validated.of(probe, [batch]))

    before = predicted(targets)
    targets[prompt % 2 == 0] = torch.randn(24, 2)  # of every other prompt
    after = predicted(targets)
    torch.testing.assert_close(after[prompt % 2 == 0], before[prompt % 2 == 0])
    assert (after - before)[prompt % 2 == 1].abs().max() > 1e-3


def test_answers_of_another_layout_are_refused() -> None:
    probe, inputs = judged_probe()
    with pytest.raises(ProbeError, match=r"was given those of shape \(3, 2\)"):
        probe.predict(replace(inputs, scalars=torch.zeros(3, 2)))


def test_a_judge_of_an_earlier_version_is_told_by_the_description(tmp_path: Path) -> None:
    probe, inputs = judged_probe()
    save_probe(tmp_path, probe)
    torch.testing.assert_close(load_probe(tmp_path).predict(inputs), probe.predict(inputs))
    description = json.loads((tmp_path / "probe.json").read_text())
    (tmp_path / "probe.json").write_text(json.dumps({**description, "format_version": 1}))
    with pytest.raises(ProbeError, match=r"format version 1 .* train the cell again"):
        load_probe(tmp_path)
