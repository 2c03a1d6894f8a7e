"""Embeddings against the text of their prompts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from probe_lab.losses.lists import same_list


def info_nce(embedding: Tensor, text_embedding: Tensor, *, temperature: float, group: Tensor | None = None) -> Tensor:
    """Contrastive loss of image embeddings (rows) against text embeddings (columns); one direction only.

    (1/B) Σ_i −log( exp(s_ii/τ) / Σ_{j ∈ N(i)} exp(s_ij/τ) ),  s_ij = cos(embedding_i, text_embedding_j)

    Both embeddings are ``[B, D]``, row i of both belonging to sample i; N(i) is i and its negatives. Without
    ``group`` these are all other rows. With it, only the rows of other prompts: the samples of one prompt
    share their text, so as negatives they would be told to leave the very text they are pulled to. A zero
    vector has similarity 0 to everything.
    """
    rows = torch.arange(len(embedding), device=embedding.device)
    excluded = same_list(embedding, rows if group is None else group).fill_diagonal_(False)
    logits = _unit_rows(embedding) @ _unit_rows(text_embedding).T / temperature
    return (logits.masked_fill(excluded, -torch.inf).logsumexp(dim=1) - logits.diagonal()).mean()


def _unit_rows(vectors: Tensor) -> Tensor:
    """Rows of ``[B, D]`` over their norm, without overflow or underflow, and with a plain gradient at zero.

    A row is first divided by its largest entry, as a constant: a direction does not depend on scale, so the
    gradient is still exact. The norm is then at least 1, and a smaller one can only be that of a zero vector,
    which stays zero.
    """
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    return F.normalize(vectors / torch.where(largest > 0, largest, 1.0), dim=1, eps=0.5)
