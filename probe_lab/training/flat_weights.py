"""All weights of a module in two contiguous tensors: one step of an optimizer is then a few kernels, not hundreds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlatWeights:
    """The parameters of ``module`` as views of two long ones: ``matrices`` (weights and filters) and ``vectors`` (norms
    and biases), whose gradients are those of the module.

    Values, shapes and memory formats stay as they are, and so does everything that is computed from them. The module
    may not be moved to another device afterwards. Parameters that a loss does not reach have a gradient of zero
    instead of none.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self.matrices, *first = _joined([p for p in parameters if p.ndim > 1])
        self.vectors, *second = _joined([p for p in parameters if p.ndim <= 1])
        self._gradients = (*first, *second)

    @property
    def parts(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.matrices, self.vectors

    def zero_grad(self) -> None:
        """Before a step: gradients are zero, and those of the module are views of ours (a trainer may have removed
        them)."""
        for part in self.parts:
            assert part.grad is not None
            part.grad.zero_()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    @torch.no_grad()
    def lerp_(self, other: FlatWeights, weight: float) -> None:
        """Move by a share ``weight`` of the way to ``other``."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.lerp_(theirs, weight)


def _joined(parameters: Sequence[nn.Parameter]) -> tuple[nn.Parameter, *tuple[tuple[nn.Parameter, Tensor], ...]]:
    """One parameter with the values of all, whose own become views of it; and each with the view of its gradient."""
    values = torch.empty(sum(p.numel() for p in parameters), device=parameters[0].device)
    joined = nn.Parameter(values, requires_grad=parameters[0].requires_grad)
    joined.grad = torch.zeros_like(values) if joined.requires_grad else None
    gradients = []
    start = 0
    for parameter in parameters:
        view = _view(values, parameter, start)
        view.copy_(parameter.data)
        parameter.data = view
        if joined.grad is not None:
            gradients.append((parameter, _view(joined.grad, parameter, start)))
        start += parameter.numel()
    return joined, *gradients


def _view(flat: Tensor, like: Tensor, start: int) -> Tensor:
    """The values from ``start`` on in the shape and memory format of ``like``, which has no gaps."""
    return flat.as_strided(like.shape, like.stride(), start)
