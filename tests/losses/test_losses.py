"""Every loss against a version in plain Python loops, and the properties that its docstring promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from probe_lab import losses
from probe_lab.errors import ConfigError

Numbers = Sequence[float]
Loss = Callable[..., Tensor]

TEMPERATURE, MARGIN = 0.5, 0.25

# Few distinct values, so that predictions and targets tie often; rounded, so that the loops do not underflow.
VALUES = st.one_of(st.integers(-2, 2).map(lambda k: k / 2), st.floats(-3, 3).map(lambda v: round(v, 6)))
ROWS = st.lists(st.tuples(VALUES, VALUES, st.integers(0, 3)), min_size=1, max_size=9)


def listwise(prediction: Tensor, target: Tensor, group: Tensor | None = None) -> Tensor:
    return losses.listwise(prediction, target, temperature=TEMPERATURE, margin=MARGIN, group=group)


def spearman(prediction: Tensor, target: Tensor, group: Tensor | None = None) -> Tensor:
    return losses.spearman(prediction, target, temperature=TEMPERATURE, group=group)


RANKING: dict[str, Loss] = {
    "listwise": listwise,
    "pairwise": losses.pairwise_logistic,
    "margin": losses.pairwise_hinge,
    "lambdarank": losses.lambda_rank,
    "spearman": spearman,
    "listnet": losses.list_net,
    "listmle": losses.list_mle,
    "pearson": losses.pearson,
}


# One list at a time, as in the papers: (sum or mean of the list, its weight when lists are averaged).
def brute_listwise(p: Numbers, y: Numbers) -> tuple[float, float]:
    total = 0.0
    for i in range(len(p)):
        own = math.exp(p[i] / TEMPERATURE)
        others = sum(math.exp(p[j] / TEMPERATURE) for j in range(len(p)) if y[j] + MARGIN < y[i])
        total += -math.log(own / (own + others))
    return total, len(p)


def brute_pairwise(p: Numbers, y: Numbers) -> tuple[float, float]:
    pairs = [(i, j) for i in range(len(p)) for j in range(len(p)) if y[i] > y[j]]
    return sum(math.log(1 + math.exp(-(p[i] - p[j]))) for i, j in pairs), len(pairs)


def brute_margin(p: Numbers, y: Numbers) -> tuple[float, float]:
    pairs = [(i, j) for i in range(len(p)) for j in range(len(p)) if y[i] > y[j]]
    return sum(max(0.0, 1 - (p[i] - p[j])) for i, j in pairs), len(pairs)


def brute_lambdarank(p: Numbers, y: Numbers) -> tuple[float, float]:
    """Sort, worse rows first where predictions tie, and exchange two ranks at a time."""
    if len(set(y)) < 2:
        return 0.0, 0
    gain = [(v - min(y)) / (max(y) - min(y)) for v in y]
    order = sorted(range(len(p)), key=lambda i: (-p[i], y[i]))
    rank = [0.0] * len(p)
    for i in range(len(p)):
        alike = [place for place, j in enumerate(order, start=1) if (p[j], y[j]) == (p[i], y[i])]
        rank[i] = sum(alike) / len(alike)
    ideal = sum(g / math.log2(1 + place) for place, g in enumerate(sorted(gain, reverse=True), start=1))

    def dcg(ranks: Numbers) -> float:
        return sum(g / math.log2(1 + r) for g, r in zip(gain, ranks, strict=True))

    total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            if y[i] > y[j]:
                exchanged = list(rank)
                exchanged[i], exchanged[j] = rank[j], rank[i]
                total += abs(dcg(exchanged) - dcg(rank)) / ideal * math.log(1 + math.exp(-(p[i] - p[j])))
    return total, 1


def brute_spearman(p: Numbers, y: Numbers) -> tuple[float, float]:
    ranks = [sum(v < w for v in y) + sum(v == w for v in y) / 2 for w in y]
    soft = [sum(1 / (1 + math.exp(-(w - v) / TEMPERATURE)) for v in p) for w in p]
    return brute_pearson(soft, ranks)


def brute_listnet(p: Numbers, y: Numbers) -> tuple[float, float]:
    if len(p) < 2:
        return 0.0, 0
    q = [math.exp(v) / sum(map(math.exp, p)) for v in p]
    wanted = [math.exp(v) / sum(map(math.exp, y)) for v in y]
    return -sum(w * math.log(v) for w, v in zip(wanted, q, strict=True)), 1


def brute_listmle(p: Numbers, y: Numbers) -> tuple[float, float]:
    """Level by level from the top, Efron's way among ties."""
    if len(p) < 2:
        return 0.0, 0
    total = 0.0
    for value in set(y):
        tied = [math.exp(p[i]) for i in range(len(p)) if y[i] == value]
        lower = sum(math.exp(p[i]) for i in range(len(p)) if y[i] < value)
        for r, own in enumerate(tied):
            total += math.log(lower + (1 - r / len(tied)) * sum(tied)) - math.log(own)
    return total / len(p), 1


def brute_pearson(p: Numbers, y: Numbers) -> tuple[float, float]:
    if len(set(y)) < 2:
        return 0.0, 0
    n = len(p)
    dp = [v - sum(p) / n for v in p]
    dy = [v - sum(y) / n for v in y]
    norm_p = max(math.sqrt(sum(v * v for v in dp)), losses.FLAT_NORM)
    norm_y = math.sqrt(sum(v * v for v in dy))
    return 1 - sum(a * b for a, b in zip(dp, dy, strict=True)) / norm_p / norm_y, 1


BRUTE: dict[str, Callable[[Numbers, Numbers], tuple[float, float]]] = {
    "listwise": brute_listwise,
    "pairwise": brute_pairwise,
    "margin": brute_margin,
    "lambdarank": brute_lambdarank,
    "spearman": brute_spearman,
    "listnet": brute_listnet,
    "listmle": brute_listmle,
    "pearson": brute_pearson,
}


def brute(name: str, rows: Sequence[tuple[float, float, int]], grouped: bool) -> float:
    """The mean of separately computed lists, weighted as documented: by rows, by pairs, or equally."""
    keys = sorted({g for _, _, g in rows}) if grouped else [None]
    lists = [[(p, y) for p, y, g in rows if key in (None, g)] for key in keys]
    parts = [BRUTE[name]([p for p, _ in part], [y for _, y in part]) for part in lists]
    return sum(total for total, _ in parts) / max(sum(weight for _, weight in parts), 1)


def tensors(rows: Sequence[tuple[float, float, int]]) -> tuple[Tensor, Tensor, Tensor]:
    p, y, g = zip(*rows, strict=True)
    return torch.tensor(p, dtype=torch.float64), torch.tensor(y, dtype=torch.float64), torch.tensor(g)


def some_rows(prompts: int = 3, seeds: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, prompts * seeds, dtype=torch.float64, generator=generator)
    return prediction, target, torch.arange(prompts).repeat_interleave(seeds)


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss, wrt)
    return grad


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", RANKING)
@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_equals_brute_force(name: str, grouped: bool, rows: list[tuple[float, float, int]]) -> None:
    prediction, target, group = tensors(rows)
    loss = RANKING[name](prediction, target, group=group if grouped else None)
    assert loss.item() == pytest.approx(brute(name, rows, grouped), rel=1e-7, abs=1e-7)


def test_mse() -> None:
    prediction, target, _ = some_rows()
    expected = sum((p - y) ** 2 for p, y in zip(prediction.tolist(), target.tolist(), strict=True)) / 12
    assert losses.mse(prediction, target).item() == pytest.approx(expected)
    assert losses.mse(prediction + 1, target).item() != pytest.approx(expected)  # scale and offset matter here


@pytest.mark.parametrize("grouped", [False, True])
def test_info_nce_equals_brute_force(grouped: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    image, text = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator)
    group = torch.tensor([0, 1, 0, 2, 1, 0])
    total = 0.0
    for i in range(6):
        scores = {}
        for j in range(6):
            if i == j or not grouped or group[i] != group[j]:
                cosine = image[i] @ text[j] / (image[i].norm() * text[j].norm())
                scores[j] = math.exp(cosine.item() / 0.1)
        total += -math.log(scores[i] / sum(scores.values()))
    loss = losses.info_nce(image, text, temperature=0.1, group=group if grouped else None)
    assert loss.item() == pytest.approx(total / 6)


def test_info_nce_is_scale_free_and_survives_extremes() -> None:
    image, text = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2))
    loss = losses.info_nce(image, text, temperature=0.1)
    torch.testing.assert_close(losses.info_nce(image * 1e30, text * 1e-30, temperature=0.1), loss)
    image = torch.stack([image[0] * 1e30, torch.zeros(3), image[2] * 1e-30, image[3]]).requires_grad_()
    grad = gradient(losses.info_nce(image, text, temperature=0.1), image)
    assert grad.isfinite().all()
    assert grad[1].abs().max() < 100


def test_info_nce_without_negatives() -> None:
    image = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    loss = losses.info_nce(image, torch.ones(3, 4), temperature=0.1, group=torch.zeros(3, dtype=torch.int64))
    assert loss.item() == 0
    assert gradient(loss, image).abs().max() == 0


@pytest.mark.parametrize("name", RANKING)
def test_gradcheck(name: str) -> None:
    prediction, target, group = some_rows()
    target[:2] = target[0]  # a tie
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: RANKING[name](p, target, group=group), prediction)


def test_gradcheck_info_nce() -> None:
    generator = torch.Generator().manual_seed(4)
    image, text = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    group = torch.tensor([0, 0, 1, 1, 2])
    image.requires_grad_()
    text.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: losses.info_nce(a, b, temperature=0.3, group=group), (image, text))


@pytest.mark.parametrize(
    "prediction", [[1e4, -1e4, 1e4, -1e4], [1e15, -1e15, 0.0, 1e15], [0.0] * 4, [1e4] * 4, [1e-30, 0.0, 0.0, 0.0]]
)
@pytest.mark.parametrize("target", [[0.0, 1.0, 1.0, 2.0], [12.0] * 4, [0.1, 0.1, 0.1, 0.1 + 1e-8]])
@pytest.mark.parametrize("groups", [[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", RANKING)
def test_gradients_are_finite(name: str, groups: list[int], target: Numbers, prediction: Numbers) -> None:
    leaf = torch.tensor(prediction, requires_grad=True)
    loss = RANKING[name](leaf, torch.tensor(target), group=torch.tensor(groups))
    assert loss.isfinite()
    assert gradient(loss, leaf).isfinite().all()


@pytest.mark.parametrize("name", RANKING)
def test_permutation_of_the_batch(name: str) -> None:
    prediction, target, group = some_rows()
    target = target.round()  # ties
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    loss = RANKING[name](prediction, target, group=group)
    torch.testing.assert_close(RANKING[name](prediction[order], target[order], group=group[order]), loss)


@pytest.mark.parametrize("name", RANKING)
def test_shift_of_predictions_per_prompt(name: str) -> None:
    prediction, target, group = some_rows()
    loss = RANKING[name](prediction, target, group=group)
    shifted = prediction + 7 * group  # another shift for every prompt
    torch.testing.assert_close(RANKING[name](shifted, target, group=group), loss)
    assert not torch.isclose(RANKING[name](shifted, target), RANKING[name](prediction, target))


@pytest.mark.parametrize("name", RANKING)
def test_a_better_order_has_a_lower_loss_and_the_gradient_leads_there(name: str) -> None:
    prediction, target, group = some_rows()
    loss = RANKING[name]
    assert loss(target, target, group=group) < loss(-target, target, group=group)
    flat = torch.zeros_like(prediction).requires_grad_()
    assert (gradient(loss(flat, target, group=group), flat) * target).sum() < 0


@pytest.mark.parametrize("name", RANKING)
def test_nothing_to_compare_gives_zero_with_a_zero_gradient(name: str) -> None:
    prediction = torch.tensor([3.0, -1.0, 2.0], requires_grad=True)
    loss = RANKING[name](prediction, torch.tensor([1.0, 2.0, 3.0]), group=torch.tensor([4, 5, 6]))
    assert loss.item() == 0
    assert gradient(loss, prediction).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["listwise", "pairwise", "margin", "lambdarank", "pearson", "spearman"])
def test_tied_targets_express_no_preference(name: str) -> None:
    prediction = torch.tensor([3.0, -1.0, 2.0], requires_grad=True)
    loss = RANKING[name](prediction, torch.full((3,), 0.3))
    assert loss.item() == 0
    assert gradient(loss, prediction).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", RANKING)
def test_single_rows_do_not_change_the_other_prompts(name: str) -> None:
    prediction, target, group = some_rows()
    more = [torch.cat([values, values[:1] + 99]) for values in (prediction, target, group)]
    scale = 12 / 13 if name == "listwise" else 1.0  # listwise is the mean over all rows, as in Eq. 5
    expected = RANKING[name](prediction, target, group=group) * scale
    torch.testing.assert_close(RANKING[name](more[0], more[1], group=more[2]), expected)


def test_list_mle_is_listwise_at_temperature_one_without_margin() -> None:
    prediction, target, group = some_rows()
    expected = losses.listwise(prediction, target, temperature=1, margin=0, group=group)
    torch.testing.assert_close(losses.list_mle(prediction, target, group=group), expected)


def test_listwise_margin_is_strict() -> None:
    prediction, target = torch.zeros(2), torch.tensor([0.0, 0.5])
    at = losses.listwise(prediction, target, temperature=1, margin=0.5)
    below = losses.listwise(prediction, target, temperature=1, margin=0.49)
    assert at.item() == 0
    assert below.item() == pytest.approx(math.log(2) / 2)


def test_hinge_forgets_pairs_that_are_apart() -> None:
    target = torch.tensor([0.0, 1.0, 2.0])
    prediction = torch.tensor([0.0, 1.5, 2.0], requires_grad=True)
    loss = losses.pairwise_hinge(prediction, target)
    assert loss.item() == pytest.approx(0.5 / 3)  # only the upper pair, 0.5 apart, is too close
    assert gradient(loss, prediction).tolist() == pytest.approx([0, 1 / 3, -1 / 3])
    assert losses.pairwise_hinge(prediction, target, margin=0.4).item() == 0


def test_lambda_rank_minds_a_mistake_at_the_top_most() -> None:
    target = torch.tensor([3.0, 2.0, 1.0, 0.0])
    top, bottom = torch.tensor([2.0, 3.0, 1.0, 0.0]), torch.tensor([3.0, 2.0, 0.0, 1.0])
    assert losses.lambda_rank(top, target) > 1.3 * losses.lambda_rank(bottom, target)
    torch.testing.assert_close(losses.pairwise_logistic(top, target), losses.pairwise_logistic(bottom, target))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", ["lambdarank", "pearson", "spearman"])
def test_unit_and_zero_of_the_scores_do_not_matter(name: str, scale: float) -> None:
    prediction, target, group = some_rows()
    loss = RANKING[name](prediction, target, group=group)
    torch.testing.assert_close(RANKING[name](prediction, scale * target - 5, group=group), loss)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_cold_spearman_is_the_reported_srcc(rows: list[tuple[float, float, int]]) -> None:
    prediction, target, _ = tensors(rows)
    loss = losses.spearman(prediction, target, temperature=1e-9)
    varied = len(set(target.tolist())) > 1
    both = varied and len(set(prediction.tolist())) > 1
    expected = 1 - spearmanr(prediction, target).statistic if both else float(varied)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_hot_spearman_is_pearson_with_ranks() -> None:
    prediction, target, group = some_rows(prompts=1)
    ranks = target.argsort().argsort().to(target.dtype)
    hot = losses.spearman(1e3 * prediction, target, temperature=1e6, group=group)
    torch.testing.assert_close(hot, losses.pearson(prediction, ranks, group=group), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["spearman", "lambdarank"])
def test_only_the_order_or_the_gains_of_targets_count(name: str) -> None:
    prediction, target, group = some_rows()
    loss, bent = (RANKING[name](prediction, values, group=group) for values in (target, target.exp()))
    assert torch.isclose(loss, bent) == (name == "spearman")


def test_annealed() -> None:
    schedule = [losses.annealed(e, 20, temperature_max=2.0, margin_max=0.4) for e in range(20)]
    assert schedule[0] == losses.Annealed(temperature=2.0, margin=0.4)
    assert schedule[10] == losses.Annealed(temperature=1.0, margin=0.2)
    assert schedule[19].temperature == pytest.approx(0.2)  # the floor of a tenth
    assert schedule[19].margin == pytest.approx(0.02)


def test_parse_loss() -> None:
    assert losses.parse_loss("mse") == ("mse",)
    assert losses.parse_loss(" listwise + infonce ") == ("listwise", "infonce")
    assert losses.parse_loss("+".join(losses.TERMS)) == losses.TERMS


@pytest.mark.parametrize(
    ("expression", "message"),
    [("listwize", "did you mean 'listwise'"), ("", "empty"), ("mse+", "empty"), ("mse+mse", "twice")],
)
def test_parse_loss_refuses(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        losses.parse_loss(expression)
    assert "\n" not in str(error.value)
