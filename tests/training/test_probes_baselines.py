"""Baselines against other implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import ProbeDataModule, prompt_groups
from probe_lab.errors import ProbeError
from probe_lab.probes import Inputs, Probe, ProbeSpec, prompt_ridge
from probe_lab.probes.prompt_ridge import fit_prompt_ridge
from probe_lab.probes.ridge import PENALTIES, Moments, fit_ridge, prompt_means, ridge
from probe_lab.training.baselines import tuned_ridge
from probe_lab.training.cell_files import over_shuffles
from probe_lab.training.probe_data import taps_of
from probe_lab.training.shuffles import other_shuffles, shuffled


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


Rows = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def _prompts(seed: int, prompts: int, *, seeds: int = 6, evaluators: int = 1) -> Rows:
    """Batches of prompts. Feature 0 shows the sample's signal, and is high where a prompt is hard: over all images it
    says nothing. Feature 1 says something of how hard a prompt is and nothing within it. Two say nothing."""
    generator = torch.Generator().manual_seed(seed)
    easy, other = torch.randn(2, prompts, generator=generator).repeat_interleave(seeds, dim=1)
    signal = torch.randn(prompts * seeds, generator=generator)
    noise = torch.randn(prompts * seeds, 4, generator=generator)
    x = torch.stack([signal - 0.8 * easy, easy + other, noise[:, 2], noise[:, 3]], dim=1)
    x = x + noise * torch.tensor([0.1, 0.02, 0.1, 0.1])
    y = (easy + signal)[:, None].repeat(1, evaluators)
    prompt = torch.arange(prompts).repeat_interleave(seeds)
    return list(zip(x.split(3 * seeds), y.split(3 * seeds), prompt.split(3 * seeds), strict=True))


def _joined(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, prompt = (torch.cat(column).double().numpy() for column in zip(*rows, strict=True))
    return x, y, prompt.astype(int)


def _centred(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    return values - pd.DataFrame(values).groupby(prompt).transform("mean").to_numpy()


def _srcc(prediction: np.ndarray, y: np.ndarray, prompt: np.ndarray) -> float:
    of_prompt = pd.DataFrame({"a": prediction, "b": y, "p": prompt}).groupby("p")
    return float(np.mean([spearmanr(rows["a"], rows["b"]).statistic for _, rows in of_prompt]))


def test_the_ridge_within_prompts_is_that_of_sklearn_on_centred_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a between-prompt part that may not vary within prompts, only the centred ridge ranks there."""
    monkeypatch.setattr(prompt_ridge, "QUIET", (1e15,))
    train, val = _prompts(0, 12), _prompts(1, 30)
    (x, y, prompt), (new, truth, other) = _joined(train), _joined(val)
    apart = _centred(x, prompt)
    scale = apart.std(axis=0)
    fits = [
        Ridge(alpha=penalty * len(x), fit_intercept=False).fit(apart / scale, _centred(y, prompt)[:, 0]).coef_ / scale
        for penalty in PENALTIES
    ]
    ranks = [_srcc(new @ fit, truth[:, 0], other) for fit in fits]
    weight, _, (chosen,) = fit_prompt_ridge(lambda: train, lambda: val, 4, 1)
    assert chosen.within == PENALTIES[int(np.argmax(ranks))]
    direction = _centred(new @ fits[int(np.argmax(ranks))][:, None], other)[:, 0]
    slope = direction @ _centred(truth, other)[:, 0] / (direction @ direction)
    np.testing.assert_allclose(_centred(new @ weight.numpy(), other)[:, 0], slope * direction, atol=1e-4)


def test_the_ridge_ranks_within_prompts_and_still_tells_prompts_apart() -> None:
    train, val = _prompts(0, 60), _prompts(1, 20)
    x, y, prompt = _joined(_prompts(2, 60))
    weight, _, (chosen,) = fit_prompt_ridge(lambda: train, lambda: val, 4, 1)
    pooled, _ = fit_ridge(*(Moments.of([(x, y) for x, y, _ in rows], 4, 1) for rows in (train, val)))
    alone = ridge(prompt_ridge.PromptMoments.of(train, 4, 1).within, chosen.within)[0]
    both, over, within = ((x @ w.numpy())[:, 0] for w in (weight, pooled, alone))
    assert _srcc(both, y[:, 0], prompt) > 0.93 > _srcc(over, y[:, 0], prompt) + 0.05
    of_all = [float(spearmanr(values, y[:, 0]).statistic) for values in (both, over, within)]
    assert of_all[0] > of_all[1] - 0.1 > of_all[2] + 0.3
    assert chosen.between is not None


def test_where_nothing_can_be_ranked_the_ridge_is_that_of_all_samples() -> None:
    """One seed per prompt; and an evaluator, of two, that all samples of a prompt share."""
    train, val = (_prompts(seed, 40, seeds=1) for seed in (0, 1))
    weight, bias, (chosen,) = fit_prompt_ridge(lambda: train, lambda: val, 4, 1)
    expected = fit_ridge(*(Moments.of([(x, y) for x, y, _ in rows], 4, 1) for rows in (train, val)))
    torch.testing.assert_close((weight, bias), expected)
    assert chosen.within == chosen.between

    train, val = (_prompts(seed, 20, evaluators=2) for seed in (0, 1))
    for rows in (train, val):
        for _, y, prompt in rows:
            y[:, 1] = prompt_means(y, prompt)[:, 1]
    weight, bias, told = fit_prompt_ridge(lambda: train, lambda: val, 4, 2)
    expected = fit_ridge(*(Moments.of([(x, y) for x, y, _ in rows], 4, 2) for rows in (train, val)))
    torch.testing.assert_close((weight[:, 1], bias[1]), (expected[0][:, 1], expected[1][1]))
    assert told[1].within == told[1].between
    alone, _, (first,) = fit_prompt_ridge(
        *((lambda rows=rows: [(x, y[:, :1], p) for x, y, p in rows]) for rows in (train, val)), 4, 1
    )
    torch.testing.assert_close(weight[:, :1], alone)
    assert told[0] == first


def test_a_penalty_at_the_end_of_the_grid_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_ridge, "PENALTIES", (1e-5, 1e-4, 1e-3))
    generator = torch.Generator().manual_seed(0)
    prompt = torch.arange(8).repeat_interleave(3)

    def rows() -> Rows:
        x = torch.randn(24, 20, generator=generator)
        return [(x, x[:, :1] + 2 * torch.randn(24, 1, generator=generator), prompt)]

    train, val = rows(), [tuple(map(torch.cat, zip(*(rows()[0] for _ in range(8)), strict=True)))]
    assert fit_prompt_ridge(lambda: train, lambda: val, 20, 1)[2][0].edge  # few samples, many features: more is better
    monkeypatch.undo()
    assert not fit_prompt_ridge(lambda: train, lambda: val, 20, 1)[2][0].edge


def test_the_closed_form_probe_is_the_calibrated_regression(planted: Cache, experiment: Experiment) -> None:
    taps = {"mid/activation": (6, 8, 8)}
    data = ProbeDataModule(
        planted, step=5, taps=list(taps), evaluators=["good", "other"], fractions=experiment.data.split
    )
    fitted = tuned_ridge(ProbeSpec("linear", taps, ("good", "other"), 5, 25), data)
    probe = fitted.probe
    assert probe is not None

    def rows(split: int) -> Rows:
        batches = data.predict_dataloader()[split]
        return [(probe.encoder(Inputs.of(b)), probe.standardised(b.targets), b.group) for b in batches]

    weight, bias, expected = fit_prompt_ridge(lambda: rows(0), lambda: rows(1), 18, 2)
    assert fitted.penalties == expected
    torch.testing.assert_close((probe.head.weight.T, probe.head.bias), (weight.float(), bias.float()))
    x, y, _ = _joined(rows(1))
    for e in range(2):
        slope, shift = np.polyfit((x @ weight.numpy() + bias.numpy())[:, e], y[:, e], 1)
        assert (float(probe.target_slope[e]), float(probe.target_shift[e])) == pytest.approx((slope, shift), abs=1e-3)
    again = tuned_ridge(probe.spec, data).probe
    assert again is not None
    torch.testing.assert_close(again.head.weight, probe.head.weight)


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


def test_the_other_shuffles_are_trainings_of_their_own(experiment: Experiment) -> None:
    """Nine beside the first, whose seeds no training seed of a sweep is."""
    control = replace(experiment, probe=replace(experiment.probe, model="shuffled_labels"))
    seeds = [other.trainer.seed for other in other_shuffles(control)]
    assert len(set(seeds)) == 9
    assert min(seeds) > 1000
    again = [other.trainer.seed for other in other_shuffles(replace(control, trainer=replace(control.trainer, seed=1)))]
    assert not set(seeds) & set(again)
    assert other_shuffles(experiment) == []
    assert other_shuffles(replace(control, probe=replace(control.probe, shuffles=1))) == []


def test_a_range_is_what_shuffles_gave(experiment: Experiment) -> None:
    def entry(value: float | None) -> dict[str, object]:
        return {"evaluator": "e", "split": "test", "metric": "m", "prompts": 4, "tied": 0} | dict.fromkeys(
            ("estimate", "lower", "upper"), value
        )

    (found,) = over_shuffles([[entry(0.1)], [entry(-0.2)], [entry(0.4)], [entry(None)]])
    assert found == entry(0.1) | {"estimate": pytest.approx(0.1), "lower": -0.2, "upper": 0.4}
    assert over_shuffles([[entry(None)], [entry(None)]]) == [entry(None)]
    assert over_shuffles([[entry(0.3)]]) == [entry(0.3)]
