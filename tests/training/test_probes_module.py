"""Training details: the average of weights, the epoch that is kept, calibration."""

from __future__ import annotations

import math

import pytest
import torch

from probe_lab.config import ProbeConfig, Trainer
from probe_lab.data import Batch
from probe_lab.errors import ProbeError
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.training.lightning_module import Monitor, ProbeModule, rate
from probe_lab.training.objective import Objective


@pytest.fixture
def probe() -> Probe:
    return Probe(ProbeSpec("linear", {"a/activation": (2, 3, 3)}, ("x", "y"), 1, 10))


def module_of(probe: Probe, ema: float) -> ProbeModule:
    objective = Objective.of(ProbeConfig(), ("mse",), epochs=3)
    return ProbeModule(probe, objective, Trainer(), ema=ema)


def test_the_average_follows_its_formula(probe: Probe) -> None:
    module = module_of(probe, ema=0.25)
    module.optimizers_for(steps=5)
    weight, expected = probe.head.weight, None
    assert isinstance(weight, torch.Tensor)
    for seen in range(5):
        with torch.no_grad():
            weight.fill_(float(seen + 1))
        module.update_average()
        # The first update copies; then the decay rises towards 0.25.
        decay = min(0.25, (1 + seen) / (10 + seen))
        expected = seen + 1.0 if expected is None else decay * expected + (1 - decay) * (seen + 1)
        average = module.evaluated.head.weight
        assert isinstance(average, torch.Tensor)
        assert average[0, 0].item() == pytest.approx(expected)
    assert module.evaluated is not probe
    assert not any(parameter.requires_grad for parameter in module.evaluated.parameters())


def test_without_an_average_the_probe_itself_is_evaluated(probe: Probe) -> None:
    assert module_of(probe, ema=0.0).evaluated is probe


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.1, 0.3, 0.2], 1),
        ([float("nan")] * 3, 2),
        ([0.2, 0.2, 0.1], 1),
        ([0.1, float("nan"), 0.05], 0),
        ([float("nan"), 0.1, 0.05], 1),
        ([float("nan"), -0.1, float("nan")], 1),
    ],
)
def test_the_best_epoch_is_kept(probe: Probe, scores: list[float], kept: int) -> None:
    module = module_of(probe, ema=0.0)
    for epoch, score in enumerate(scores):
        with torch.no_grad():
            probe.head.bias.fill_(float(epoch))  # type: ignore[union-attr,operator]
        module.val_srcc.compute = lambda score=score: torch.tensor(score)  # type: ignore[method-assign,misc]
        module.on_validation_epoch_end()
    assert module.finish().head.bias.tolist() == [float(kept)] * 2  # type: ignore[union-attr,operator]
    assert not module.probe.training


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("monitor", ["srcc_within", "mse"])
def test_a_training_that_diverged_says_what_to_do(probe: Probe, value: float, monitor: Monitor) -> None:
    objective = Objective.of(ProbeConfig(), ("mse",), epochs=3)
    module = ProbeModule(probe, objective, Trainer(learning_rate=0.5), monitor=monitor)
    with torch.no_grad():
        probe.head.bias.fill_(value)  # type: ignore[union-attr,operator]
    features = {"a/activation": torch.randn(4, 2, 3, 3)}
    groups = torch.tensor([0, 0, 1, 1])
    module.validation_step(Batch(features, torch.rand(4, 2), groups, torch.arange(4), torch.ones(4).long()), 0)
    with pytest.raises(ProbeError, match=r"lower trainer\.learning_rate \(0\.5\)"):
        module.on_validation_epoch_end()


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate(step / 100) for step in range(101)]
    assert max(rates) == rates[10] == 1.0
    assert rates[5] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_calibration_is_least_squares_and_keeps_the_order(probe: Probe) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(50, 2, generator=generator)
    target = 3 * prediction + 1 + 0.1 * torch.randn(50, 2, generator=generator)
    target[:, 1] *= -1  # a slope that would turn the order around
    probe.calibrate(prediction, target)
    matrix = torch.stack([prediction[:, 0], torch.ones(50)], dim=1)
    slope, shift = torch.linalg.lstsq(matrix, target[:, 0]).solution.tolist()
    assert probe.target_slope.tolist() == pytest.approx([slope, 1.0], abs=1e-5)
    assert probe.target_shift.tolist() == pytest.approx([shift, 0.0], abs=1e-5)
    assert probe.unscaled == probe.spec.evaluators[1:]
    probe.calibrate(torch.ones(50, 2), target)
    assert probe.target_slope.tolist() == [1.0, 1.0]
    assert probe.unscaled == probe.spec.evaluators


def close_epoch(module: ProbeModule, score: float) -> str:
    """An epoch whose validation gave ``score``; what it says of going on."""
    values, group = torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.int64)
    for metric in (module.val_srcc, module.val_gain):
        metric.update(values, values, group)
    module.train_loss.update(1.0)
    module.val_srcc.compute = lambda: torch.tensor(score)  # type: ignore[method-assign]
    module.on_validation_epoch_end()
    module.end_epoch()
    return module.stopped


def test_a_training_without_progress_loses_its_patience(probe: Probe) -> None:
    objective = Objective.of(ProbeConfig(), ("mse",), epochs=9)
    module = ProbeModule(probe, objective, Trainer(max_epochs=9, patience=2))
    stops = [close_epoch(module, score) for score in (0.1, 0.3, 0.2, 0.3, 0.4)]
    assert stops == ["", "", "", "patience", ""]


def test_whoever_is_asked_can_end_a_training_but_not_its_last_epoch(probe: Probe) -> None:
    asked: list[tuple[int, float]] = []

    def go_on(epoch: int, value: float) -> bool:
        asked.append((epoch, round(value, 3)))
        return False

    objective = Objective.of(ProbeConfig(), ("mse",), epochs=2)
    module = ProbeModule(probe, objective, Trainer(max_epochs=2), go_on=go_on)
    assert [close_epoch(module, 0.5) for _ in range(2)] == ["halving", ""]
    assert asked == [(1, 0.5)]
