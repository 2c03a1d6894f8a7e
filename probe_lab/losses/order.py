"""The order of whole lists, as probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from probe_lab.losses.lists import gaps, mean_over_lists, same_list, sizes


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
    competes = same_list(prediction, group) & worse
    competes.fill_diagonal_(True)
    # Row i is log Σ_j exp((ŷ_j − ŷ_i)/τ): its own term is exp(0), so a row without worse ones is exactly 0.
    logits = gaps(prediction) / temperature
    return logits.masked_fill(~competes, -torch.inf).logsumexp(dim=1).mean()


def list_net(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """ListNet (top-one): cross-entropy of the softmax of targets and of predictions, averaged over prompts.

    −Σ_i p_i log q_i with p = softmax(y) and q = softmax(ŷ) over the rows of a prompt.

    Prompts with one row are left out. The minimum is the entropy of p, not 0. Tied targets have equal shares
    of p, so they pull their predictions together. Invariant to a shift of all predictions of a prompt, and of
    all its targets.
    """
    same = same_list(prediction, group)
    wanted = (-_log_normaliser(target, same)).exp()
    return mean_over_lists(wanted * _log_normaliser(prediction, same), same)


def list_mle(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """ListMLE: negative log-likelihood per row of the target's order, under the Plackett–Luce model.

    (1/n) Σ_i [ log Σ_j w_ij exp(ŷ_j) − ŷ_i ] for a prompt of n rows, averaged over prompts with two rows or
    more, with w_ij = 1 for y_j < y_i and 0 for y_j > y_i. Ties take Efron's approximation to the mean over
    all orders of the tied rows: among m rows that tie, the r-th one counted (r = 0 … m−1, in any order) finds
    w_ij = 1 − r/m of each tied row still to be placed. The sum does not depend on which row is the r-th,
    hence not on the order of the batch. Invariant to a shift of all predictions of a prompt. Without ties and
    for equally long lists this is :func:`listwise` at temperature 1 and margin 0.
    """
    same = same_list(prediction, group)
    tied = same & (target[:, None] == target[None, :])
    placed = tied.tril(diagonal=-1).sum(dim=1).to(prediction.dtype) / tied.sum(dim=1)
    worse = same & (target[None, :] < target[:, None])
    weight = torch.where(tied, 1 - placed[:, None], worse.to(placed.dtype))
    loss = (gaps(prediction) + weight.log()).logsumexp(dim=1)  # log 0 = −inf leaves a row out
    return mean_over_lists(loss / sizes(same, prediction), same)


def _log_normaliser(values: Tensor, same: Tensor) -> Tensor:
    """``[B]``: −log softmax(values) over the row's own list."""
    return gaps(values).masked_fill(~same, -torch.inf).logsumexp(dim=1)
