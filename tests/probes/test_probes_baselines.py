"""Baselines against other implementations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import ProbeDataModule, prompt_groups
from probe_lab.errors import ProbeError
from probe_lab.probes import Inputs, Probe, ProbeSpec
from probe_lab.probes.baselines import closed_form, shuffled
from probe_lab.probes.reading import taps_of
from probe_lab.probes.ridge import PENALTIES, Moments, fit_ridge, ridge


def _data(seed: int, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator) * torch.tensor([1.0, 5.0, 0.1, 1.0, 2.0, 0.0]) + 3
    noise = torch.randn(count, 2, generator=generator)
    return x, torch.stack([x[:, 0] - x[:, 1], 4 * x[:, 2]], dim=1) + noise


@pytest.mark.parametrize("penalty", [1e-3, 0.3, 10.0])
def test_ridge_equals_sklearn_on_standardised_features(penalty: float) -> None:
    x, y = _data(0)
    moments = Moments.of([(x[:50], y[:50]), (x[50:], y[50:])], 6, 2)
    weight, bias = ridge(moments, penalty)
    varying = x[:, :5].double()  # the last feature never changes
    scaled = (varying - varying.mean(0)) / varying.std(0, correction=0)
    reference = Ridge(alpha=penalty * len(x)).fit(scaled.numpy(), y.numpy())
    torch.testing.assert_close(
        x.double() @ weight + bias, torch.from_numpy(reference.predict(scaled.numpy())), atol=1e-5, rtol=1e-5
    )
    assert weight[5].tolist() == [0.0, 0.0]


def test_the_error_from_moments_is_the_error() -> None:
    x, y = _data(0)
    weight, bias = ridge(Moments.of([(x, y)], 6, 2), 0.1)
    unseen, scores = _data(1)
    expected = (unseen.double() @ weight + bias - scores).square().mean(dim=0)
    torch.testing.assert_close(Moments.of([(unseen, scores)], 6, 2).error(weight, bias), expected)


def test_each_target_gets_the_penalty_that_is_best_on_validation() -> None:
    train, val = (Moments.of([_data(seed, count)], 6, 2) for seed, count in ((0, 12), (1, 200)))
    weight, bias = fit_ridge(train, val)
    errors = torch.stack([val.error(*ridge(train, penalty)) for penalty in PENALTIES])
    torch.testing.assert_close(val.error(weight, bias), errors.min(dim=0).values)


def test_entropy_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 4, 2, 5, generator=generator)
    maps[0, 0] = 1.0  # uniform
    maps[0, 1] = torch.eye(5)[0].repeat(2, 1) * torch.tensor([[1.0], [0.0]])  # one position
    mask = torch.tensor([[True, True, False, False], [True] * 4, [True, False, True, False]])
    spec = ProbeSpec("attention_entropy", {"a/attention": (4, 2, 5)}, ("e",), 1, 10)
    inputs = Inputs({"a/attention": maps}, torch.ones(3, dtype=torch.int64), token_mask=mask)
    found = Probe(spec).encoder(inputs)
    for row in range(3):
        entropies = []
        for token in range(4):
            if mask[row, token]:
                share = (maps[row, token] / maps[row, token].sum()).flatten().tolist()
                entropies.append(-sum(p * math.log(p) for p in share if p > 0) / math.log(10))
        assert found[row, 0].item() == pytest.approx(sum(entropies) / len(entropies), abs=1e-6)
    assert found[0, 0].item() == pytest.approx(0.5)


def test_the_linear_probe_sees_mean_std_and_maximum() -> None:
    spec = ProbeSpec("linear", {"a/activation": (2, 3, 3)}, ("e",), 1, 10)
    probe = Probe(spec)
    probe.standardise_features({"a/activation": torch.tensor([1.0, 0.0])}, {"a/activation": torch.tensor([2.0, 1.0])})
    values = torch.rand(4, 2, 3, 3)
    scaled = (values.numpy() - np.array([1, 0]).reshape(2, 1, 1)) / np.array([2, 1]).reshape(2, 1, 1)
    expected = np.concatenate([scaled.mean((2, 3)), scaled.std((2, 3)), scaled.max((2, 3))], axis=1)
    found = probe.encoder(Inputs({"a/activation": values}, torch.ones(4)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_closed_form_probe_is_the_regression(planted: Cache, experiment: Experiment) -> None:
    taps = {"mid/activation": (6, 8, 8)}
    data = ProbeDataModule(planted, step=5, taps=list(taps), evaluators=["good"], fractions=experiment.data.split)
    probe = closed_form(ProbeSpec("linear", taps, ("good",), 5, 25), data)
    batches = list(data.predict_dataloader()[0])
    features = torch.cat([probe.encoder(Inputs.of(batch)) for batch in batches]).double().numpy()
    target = torch.cat([batch.targets for batch in batches]).double().flatten().numpy()
    prediction = torch.cat([probe.predict(Inputs.of(batch)) for batch in batches]).flatten().numpy()
    scaled = (features - features.mean(0)) / features.std(0)
    fits = [Ridge(alpha=penalty * len(scaled)).fit(scaled, target).predict(scaled) for penalty in PENALTIES]
    assert min(np.abs(prediction - fit).max() for fit in fits) < 1e-3 * target.std()


def test_shuffled_labels_are_the_scores_of_each_split_in_another_order(planted: Cache, experiment: Experiment) -> None:
    fractions = experiment.data.split
    labels = shuffled(planted, ["good", "other"], fractions, seed=0)
    groups = prompt_groups(planted, ["good", "other"], fractions)
    for split in (groups["train"], groups["val"]):
        mine = labels[split.sample_id].numpy()
        assert sorted(map(tuple, mine)) == sorted(map(tuple, split.targets))  # rows stay together
        assert abs(np.corrcoef(mine[:, 0], split.targets[:, 0])[0, 1]) < 0.3
    assert torch.isnan(labels[groups["test"].sample_id]).all()
    train = groups["train"]
    assert not torch.equal(shuffled(planted, ["good"], fractions, 1)[train.sample_id], labels[train.sample_id, :1])


def test_what_each_model_reads() -> None:
    taps = ["a/attention", "b/activation", "x0"]
    expected: dict[str, list[str]] = {
        "cnn": taps,
        "linear": taps,
        "shuffled_labels": taps,
        "prompt_only": [],
        "attention_entropy": ["a/attention"],
        "noisy_latent": ["latent"],
        "x0_preview": ["x0"],
    }
    check: Callable[..., list[str]] = taps_of
    assert {model: check(model, taps) for model in expected} == expected
    with pytest.raises(ProbeError, match="attention_entropy reads attention"):
        taps_of("attention_entropy", ["x0"])
