"""What a probe is trained on: whole prompt groups, cast and stacked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples: all (scored) seeds of up to `batch_prompts` prompts, group after group.

    `features` maps a tap string to float32 [B, C, H, W]. `targets` are raw scores, float32 [B, E], in the
    order of the evaluators asked for. `group` (prompt ids), `sample_id` and `step` are int64 [B]. With a text
    encoder, `text` is its prompt embedding, float32 [B, D], `tokens` float32 [B, L, D] and `token_mask` bool
    [B, L] (True: a real token); each is None where the encoder did not store it. `scalars` are raw values,
    float32 [B, S], in the order asked for; None where none were.
    """

    features: dict[str, Tensor]
    targets: Tensor
    group: Tensor
    sample_id: Tensor
    step: Tensor
    text: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    scalars: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sample_id)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device (Lightning calls this)."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Batch(
            features={tap: move(array) for tap, array in self.features.items()},
            targets=move(self.targets),
            group=move(self.group),
            sample_id=move(self.sample_id),
            step=move(self.step),
            text=None if self.text is None else move(self.text),
            tokens=None if self.tokens is None else move(self.tokens),
            token_mask=None if self.token_mask is None else move(self.token_mask),
            scalars=None if self.scalars is None else move(self.scalars),
        )
