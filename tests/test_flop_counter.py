"""Operations are counted as PyTorch's own counter counts them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from probe_lab.flop_counter import OperationCounter


class Small(nn.Module):
    """A convolution, an attention and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        states = self.convolution(pictures).flatten(2).transpose(1, 2)[:, None]
        attended: Tensor = self.linear(F.scaled_dot_product_attention(states, states, states))
        return attended


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_totals_are_those_of_pytorch(device: str, grad: type[AbstractContextManager[None]]) -> None:
    model, pictures = Small().to(device), torch.ones(2, 3, 6, 6, device=device)
    with grad(), OperationCounter() as counter:
        model(pictures)
    with grad(), FlopCounterMode(display=False) as theirs:
        model(pictures)
    # 2 pictures of 4 × 4 places: the convolution, both products of attention, and the linear layer
    assert counter.total == theirs.get_total_flops() == 2 * 2 * 16 * (27 * 8 + 2 * 16 * 8 + 8 * 5)


def test_results_are_those_without_a_count() -> None:
    model, pictures = Small(), torch.randn(2, 3, 6, 6)
    expected = model(pictures)
    with OperationCounter():
        counted = model(pictures)
    torch.testing.assert_close(counted, expected, rtol=0, atol=0)
