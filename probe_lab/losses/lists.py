"""What the losses share: the rows of a batch as lists, one per prompt, by ``[B, B]`` masks."""

from __future__ import annotations

import torch
from torch import Tensor


def same_list(prediction: Tensor, group: Tensor | None) -> Tensor:
    """``[B, B]`` bool: whether two rows belong to one prompt."""
    if group is None:
        return torch.ones(len(prediction), len(prediction), dtype=torch.bool, device=prediction.device)
    return group[:, None] == group[None, :]


def gaps(prediction: Tensor) -> Tensor:
    """``[B, B]`` with ŷ_j − ŷ_i in row i."""
    return prediction[None, :] - prediction[:, None]


def sizes(same: Tensor, like: Tensor) -> Tensor:
    """``[B]`` in the dtype of ``like``: rows in the list of each row; 1 where ``same`` leaves a row out."""
    return same.sum(dim=1).clamp_min(1).to(like.dtype)


def mean_over_lists(rows: Tensor, same: Tensor) -> Tensor:
    """Sum of ``rows [B]`` over the lists that have two rows or more, divided by the number of such lists."""
    size = sizes(same, rows)
    counted = size >= 2
    lists = torch.where(counted, 1 / size, 0.0).sum().round()  # a list of n rows adds n times 1/n
    return torch.where(counted, rows, 0.0).sum() / lists.clamp_min(1)


def varied_lists(target: Tensor, same: Tensor) -> Tensor:
    """``same`` without the lists whose targets are all equal: they express no order."""
    return same & (same & (target[:, None] != target[None, :])).any(dim=1, keepdim=True)
