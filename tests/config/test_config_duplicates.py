"""What stands twice in a list of names would count twice: it is refused, wherever it stands."""

from __future__ import annotations

import pytest

from probe_lab.config import load_experiment
from probe_lab.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluators=[shapes_reward,shapes_reward]", "'evaluators' names 'shapes_reward' twice: once is enough"),
        ("probe.evaluators=[shapes_reward,shapes_reward]", "'probe.evaluators' names 'shapes_reward' twice"),
        ("probe.taps=[x0,latent,x0]", "'probe.taps' names 'x0' twice"),
        ("probe.scalars=[preview:shapes_reward,preview:shapes_reward]", "'probe.scalars' names"),
        ("capture.steps=[2,4,2]", "'capture.steps' names '2' twice"),
        ("capture.taps=[x0,x0]", "'capture.taps' names 'x0' twice"),
        ("tradeoff.candidates=[2,5,2]", "'tradeoff.candidates' names '2' twice"),
        ("tradeoff.timed=[2,2]", "'tradeoff.timed' names '2' twice"),
        ("halving.by=[probe.step,probe.step]", "'halving.by' names 'probe.step' twice"),
        ("prompts.exclude=[smoke,smoke]", "'prompts.exclude' names 'smoke' twice"),
        ("sweep={probe.step: [2, 4, 2]}", "the sweep over 'probe.step' names '2' twice"),
        ("sweep={probe.step: [{from: 1, to: 3}, 2]}", "the sweep over 'probe.step' names '2' twice"),
        ("sweep={probe.taps: [[x0], [x0]]}", "the sweep over 'probe.taps' names"),
        ("sweep={probe.evaluators: [[shapes_reward, shapes_reward]]}", "'probe.evaluators' names"),
        ("sweep={sets: {both: [x0, x0]}, probe.step: [2]}", "the set 'both' in sweep.sets names 'x0' twice"),
        (
            "sweep={probe.model: [cnn, linear], probe.step: {values: [2, 2], if: 'model == \"cnn\"'}}",
            "the sweep over 'probe.step' names '2' twice",
        ),
    ],
)
def test_what_stands_twice_is_refused(override: str, message: str) -> None:
    from probe_lab.sweep import cells

    with pytest.raises(ConfigError, match=message):
        cells(load_experiment("smoke", [override]))
