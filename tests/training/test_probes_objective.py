"""Objectives: sums over terms, means over evaluators, who is compared with whom; and the example of
docs/losses.md."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from probe_lab import losses
from probe_lab.config import ProbeConfig
from probe_lab.errors import ConfigError
from probe_lab.losses import LOSSES, TERMS, Loss, Term
from probe_lab.training.objective import Objective

DOCUMENT = Path(__file__).parents[2] / "docs" / "losses.md"


def objective(*terms: str, within_prompt: bool = True) -> Objective:
    config = ProbeConfig(within_prompt=within_prompt, temperature=0.8, margin=0.4)
    return Objective.of(config, terms, epochs=4)  # type: ignore[arg-type]


@pytest.fixture
def values() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    prediction, target = torch.randn(2, 12, 2, generator=generator)
    return prediction, target, torch.arange(12) // 4


def test_every_term_has_its_place() -> None:
    assert {term for term in TERMS if LOSSES.get(term).score} | {"infonce"} == set(TERMS)


def test_terms_are_added_and_evaluators_averaged(values: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, group = values
    epoch = 2  # τ = 0.8 · (1 − 2/4), α = 0.4 · (1 − 2/4)
    expected = sum(
        losses.mse(prediction[:, e], target[:, e])
        + losses.listwise(prediction[:, e], target[:, e], temperature=0.4, margin=0.2, group=group)
        for e in range(2)
    )
    found = objective("mse", "listwise").scored(prediction, target, group, epoch)
    torch.testing.assert_close(found, torch.as_tensor(expected) / 2)


@pytest.mark.parametrize("term", sorted(set(TERMS) - {"mse", "infonce"}))
def test_within_prompt_ranking_ignores_how_prompts_compare(values: tuple[Tensor, Tensor, Tensor], term: Term) -> None:
    prediction, target, group = values
    shifted = prediction + 5.0 * group[:, None]
    within, over = objective(term), objective(term, within_prompt=False)
    torch.testing.assert_close(
        within.scored(shifted, target, group, 0),
        within.scored(prediction, target, group, 0),
        atol=1e-4,
        rtol=1e-4,
    )
    assert not torch.allclose(over.scored(shifted, target, group, 0), over.scored(prediction, target, group, 0))


def test_infonce_is_weighted_and_knows_the_prompts() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding, text = torch.randn(2, 6, 5, generator=generator)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    for within in (True, False):
        found = objective("mse", "infonce", within_prompt=within).contrast(embedding, text, group)
        torch.testing.assert_close(found, 10 * losses.info_nce(embedding, text, temperature=0.1, group=group))


def test_infonce_may_have_all_samples_as_negatives_and_a_rising_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding, text = torch.randn(2, 6, 5, generator=generator)
    config = ProbeConfig(alignment=3.0, nce_temperature=0.1, nce_temperature_ratio=10.0, nce_negatives="all")
    released = Objective.of(config, ("mse", "infonce"), epochs=4)
    for epoch, temperature in enumerate((0.1, 0.325, 0.55, 0.775)):
        found = released.contrast(embedding, text, torch.arange(6) // 3, epoch)
        torch.testing.assert_close(found, 3 * losses.info_nce(embedding, text, temperature=temperature))


def test_pearson_has_a_weight_of_its_own(values: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, group = values
    config = ProbeConfig(within_prompt=False, correlation=10.0)
    found = Objective.of(config, ("mse", "pearson"), epochs=4).scored(prediction, target, group, 0)
    over = torch.stack([1 - torch.corrcoef(torch.stack([prediction[:, e], target[:, e]]))[0, 1] for e in range(2)])
    torch.testing.assert_close(found, F.mse_loss(prediction, target) + 10 * over.mean())


@pytest.mark.parametrize(
    ("terms", "within", "across"),
    [
        (("mse",), False, False),
        (("listwise",), True, False),
        (("listwise",), False, True),
        (("mse", "infonce"), True, True),
    ],
)
def test_which_losses_compare_prompts(terms: tuple[Term, ...], within: bool, across: bool) -> None:
    assert objective(*terms, within_prompt=within).across_prompts is across


def test_infonce_alone_trains_no_predictions() -> None:
    with pytest.raises(ConfigError, match=r"probe\.loss=infonce trains no predictions"):
        objective("infonce")


def test_only_mse_gives_predictions_a_scale() -> None:
    assert objective("mse", "infonce").scaled
    assert not objective("listwise", "infonce").scaled


def test_the_documented_example_works(values: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    function, entry = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    space = {"Tensor": Tensor, "F": F, "Loss": Loss}
    exec(textwrap.dedent(function), space)
    added = eval("{" + textwrap.dedent(entry) + "}", space)
    monkeypatch.setattr(LOSSES, "_entries", LOSSES._entries | added)
    prediction, target, group = values
    gaps = (prediction - target).abs()
    expected = torch.where(gaps < 1, 0.5 * gaps**2, gaps - 0.5).mean()
    torch.testing.assert_close(objective("huber").scored(prediction, target, group, 0), expected)
    assert objective("huber").scaled
