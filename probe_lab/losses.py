"""Training objectives of a probe: pure functions of tensors, for one evaluator at a time.

Shapes and conventions, for every function here:

- ``prediction`` and ``target`` are ``[B]``, float32 or float64, on one device, B ≥ 1. ŷ_i and y_i are their
  entries.
- ``group`` is ``[B]`` int64, the prompt of each row. Rows with different ids are never compared with each
  other, and the rows of a prompt need not be adjacent. ``None`` means that the whole batch is one list.
- The result is a scalar that is invariant under a permutation of the batch. Where there is nothing to compare
  (no pair, no list of two, no negative) it is 0, still attached to the graph, with a gradient of zeros.
- The caller guarantees finite input; nothing is filtered here. Gradients are then finite, also for ties and
  for predictions so large that their exponentials are not (only squares, and differences over the
  temperature, must be representable).
- Everything is vectorised over prompts with ``[B, B]`` masks, and made of elementwise operations and
  reductions, which autocast leaves in float32; only the similarities of :func:`info_nce` are a matrix
  product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from probe_lab.errors import ConfigError, nearest

Term = Literal["mse", "listwise", "infonce", "pairwise", "listnet", "listmle", "pearson"]
TERMS: tuple[Term, ...] = get_args(Term)

FLAT_NORM = 1e-4
"""Centred predictions of one list whose norm is below this have no direction yet (see :func:`pearson`)."""


@dataclass(frozen=True)
class Annealed:
    """Temperature τ and margin α of :func:`listwise` in one epoch."""

    temperature: float
    margin: float


def annealed(epoch: int, epochs: int, *, temperature_max: float, margin_max: float) -> Annealed:
    """Schedule of Probe-Select: τ = τ_max · max(1 − e/E, 0.1) and α = α_max · (1 − e/E).

    ``epoch`` e counts from 0 to ``epochs`` − 1, so training starts at the two maxima.
    """
    left = 1.0 - epoch / epochs
    return Annealed(temperature=temperature_max * max(left, 0.1), margin=margin_max * left)


def parse_loss(expression: str) -> tuple[Term, ...]:
    """Terms of a sum such as ``"listwise+infonce"``, in the order written; spaces around a term are ignored.

    Raises :class:`~probe_lab.errors.ConfigError` for an unknown term (naming the nearest), an empty one, or a
    repeated one.
    """
    terms: list[Term] = []
    for name in (part.strip() for part in expression.split("+")):
        if not name:
            raise ConfigError(f"loss '{expression}' has an empty term: join terms by + {nearest('', TERMS)}")
        if name not in TERMS:
            raise ConfigError(f"loss '{expression}' has the unknown term '{name}': {nearest(name, TERMS)}")
        if name in terms:
            raise ConfigError(f"loss '{expression}' has the term '{name}' twice: write each term once")
        terms.append(name)
    return tuple(terms)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, (1/B) Σ_i (ŷ_i − y_i)²: the objective of Diffusion Probe."""
    return (prediction - target).square().mean()


def listwise(
    prediction: Tensor, target: Tensor, *, temperature: float, margin: float, group: Tensor | None = None
) -> Tensor:
    """Listwise ranking loss of Probe-Select (Eq. 5): every row against those that are clearly worse.

    (1/B) Σ_i −log( exp(ŷ_i/τ) / ( exp(ŷ_i/τ) + Σ_{j : y_j + α < y_i} exp(ŷ_j/τ) ) )

    τ is ``temperature`` > 0; α is ``margin`` ≥ 0, in units of ``target``. A row without worse rows adds 0 but
    is counted in B, so with ``group`` the loss is the mean over prompts weighted by their number of rows.
    Ties make no pair. Invariant to a shift of all predictions of a prompt.
    """
    worse = target[None, :] + margin < target[:, None]
    competes = _same_list(prediction, group) & worse
    competes.fill_diagonal_(True)
    # Row i is log Σ_j exp((ŷ_j − ŷ_i)/τ): its own term is exp(0), so a row without worse ones is exactly 0.
    logits = _gaps(prediction) / temperature
    return logits.masked_fill(~competes, -torch.inf).logsumexp(dim=1).mean()


def info_nce(embedding: Tensor, text_embedding: Tensor, *, temperature: float, group: Tensor | None = None) -> Tensor:
    """Contrastive loss of image embeddings (rows) against text embeddings (columns); one direction only.

    (1/B) Σ_i −log( exp(s_ii/τ) / Σ_{j ∈ N(i)} exp(s_ij/τ) ),  s_ij = cos(embedding_i, text_embedding_j)

    Both embeddings are ``[B, D]``, row i of both belonging to sample i; N(i) is i and its negatives. Without
    ``group`` these are all other rows. With it, only the rows of other prompts: the samples of one prompt
    share their text, so as negatives they would be told to leave the very text they are pulled to. A zero
    vector has similarity 0 to everything.
    """
    rows = torch.arange(len(embedding), device=embedding.device)
    excluded = _same_list(embedding, rows if group is None else group).fill_diagonal_(False)
    logits = _unit_rows(embedding) @ _unit_rows(text_embedding).T / temperature
    return (logits.masked_fill(excluded, -torch.inf).logsumexp(dim=1) - logits.diagonal()).mean()


def pairwise_logistic(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """RankNet: the mean of log(1 + exp(−(ŷ_i − ŷ_j))) over all pairs of one prompt with y_i > y_j.

    All pairs of the batch weigh the same, so with ``group`` the loss is the mean over prompts weighted by
    their number of pairs. Ties make no pair. Invariant to a shift of all predictions of a prompt.
    """
    better = (target[:, None] > target[None, :]) & _same_list(prediction, group)
    loss = F.softplus(_gaps(prediction))  # entry [i, j] is log(1 + exp(ŷ_j − ŷ_i))
    return torch.where(better, loss, 0.0).sum() / better.sum().clamp_min(1)


def list_net(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """ListNet (top-one): cross-entropy of the softmax of targets and of predictions, averaged over prompts.

    −Σ_i p_i log q_i with p = softmax(y) and q = softmax(ŷ) over the rows of a prompt.

    Prompts with one row are left out. The minimum is the entropy of p, not 0. Tied targets have equal shares
    of p, so they pull their predictions together. Invariant to a shift of all predictions of a prompt, and of
    all its targets.
    """
    same = _same_list(prediction, group)
    wanted = (-_log_normaliser(target, same)).exp()
    return _mean_over_lists(wanted * _log_normaliser(prediction, same), same)


def list_mle(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """ListMLE: negative log-likelihood per row of the target's order, under the Plackett–Luce model.

    (1/n) Σ_i [ log Σ_j w_ij exp(ŷ_j) − ŷ_i ] for a prompt of n rows, averaged over prompts with two rows or
    more, with w_ij = 1 for y_j < y_i and 0 for y_j > y_i. Ties take Efron's approximation to the mean over
    all orders of the tied rows: among m rows that tie, the r-th one counted (r = 0 … m−1, in any order) finds
    w_ij = 1 − r/m of each tied row still to be placed. The sum does not depend on which row is the r-th,
    hence not on the order of the batch. Invariant to a shift of all predictions of a prompt. Without ties and
    for equally long lists this is :func:`listwise` at temperature 1 and margin 0.
    """
    same = _same_list(prediction, group)
    tied = same & (target[:, None] == target[None, :])
    placed = tied.tril(diagonal=-1).sum(dim=1).to(prediction.dtype) / tied.sum(dim=1)
    worse = same & (target[None, :] < target[:, None])
    weight = torch.where(tied, 1 - placed[:, None], worse.to(placed.dtype))
    loss = (_gaps(prediction) + weight.log()).logsumexp(dim=1)  # log 0 = −inf leaves a row out
    return _mean_over_lists(loss / _sizes(same, prediction), same)


def pearson(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """1 − r, with r the Pearson correlation of prediction and target within a prompt, averaged over prompts.

    r = u · v, where u and v are prediction and target minus their means, divided by their norms. Prompts with
    one row, or whose targets are all the same, have no correlation and are left out. The norm of the centred
    predictions is taken as at least :data:`FLAT_NORM`: below it r falls linearly to 0, the value for constant
    predictions, whose gradient is finite and points to the target. Invariant to a shift of all predictions of
    a prompt and, above that norm, to their scale.
    """
    same = _same_list(prediction, group)
    varied = (same & (target[:, None] != target[None, :])).any(dim=1, keepdim=True)
    wanted = _unit_lists(target, same, torch.finfo(target.dtype).tiny)
    loss = 1 / _sizes(same, prediction) - _unit_lists(prediction, same, FLAT_NORM) * wanted
    return _mean_over_lists(loss, same & varied)


def _same_list(prediction: Tensor, group: Tensor | None) -> Tensor:
    """``[B, B]`` bool: whether two rows belong to one prompt."""
    if group is None:
        return torch.ones(len(prediction), len(prediction), dtype=torch.bool, device=prediction.device)
    return group[:, None] == group[None, :]


def _gaps(prediction: Tensor) -> Tensor:
    """``[B, B]`` with ŷ_j − ŷ_i in row i."""
    return prediction[None, :] - prediction[:, None]


def _log_normaliser(values: Tensor, same: Tensor) -> Tensor:
    """``[B]``: −log softmax(values) over the row's own list."""
    return _gaps(values).masked_fill(~same, -torch.inf).logsumexp(dim=1)


def _sizes(same: Tensor, like: Tensor) -> Tensor:
    """``[B]`` in the dtype of ``like``: rows in the list of each row; 1 where ``same`` leaves a row out."""
    return same.sum(dim=1).clamp_min(1).to(like.dtype)


def _mean_over_lists(rows: Tensor, same: Tensor) -> Tensor:
    """Sum of ``rows [B]`` over the lists that have two rows or more, divided by the number of such lists."""
    size = _sizes(same, rows)
    counted = size >= 2
    lists = torch.where(counted, 1 / size, 0.0).sum().round()  # a list of n rows adds n times 1/n
    return torch.where(counted, rows, 0.0).sum() / lists.clamp_min(1)


def _unit_lists(values: Tensor, same: Tensor, floor: float) -> Tensor:
    """``[B]``: c / max(‖c‖, floor), with c the values of a list minus their mean.

    Computed on c over its largest entry, as in :func:`_unit_rows`, so that no square overflows or underflows.
    """
    centred = values - torch.where(same, values[None, :], 0.0).sum(dim=1) / _sizes(same, values)
    largest = torch.where(same, centred.detach().abs()[None, :], 0.0).amax(dim=1).clamp_min(floor)
    scaled = centred / largest
    return scaled / torch.where(same, scaled.square()[None, :], 0.0).sum(dim=1).clamp_min(1.0).sqrt()


def _unit_rows(vectors: Tensor) -> Tensor:
    """Rows of ``[B, D]`` over their norm, without overflow or underflow, and with a plain gradient at zero.

    A row is first divided by its largest entry, as a constant: a direction does not depend on scale, so the
    gradient is still exact. The norm is then at least 1, and a smaller one can only be that of a zero vector,
    which stays zero.
    """
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    return F.normalize(vectors / torch.where(largest > 0, largest, 1.0), dim=1, eps=0.5)
