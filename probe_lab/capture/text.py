"""Text embeddings of prompts by the backbone's own text encoder, once per prompt."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.capture.backbones import family_of

ENCODER = "backbone"
"""Name under which the cache keeps them: ``text/backbone.safetensors``."""


@torch.no_grad()
def encode_prompts(pipe: DiffusionPipeline, prompts: list[str], batch_size: int = 256) -> dict[str, Tensor]:
    """``embedding`` [P, D] (end-of-text token) and ``tokens`` [P, L, D], float32; ``token_mask`` [P, L], bool."""
    family = family_of(pipe)
    tokenizer, encoder = getattr(pipe, family.tokenizer), getattr(pipe, family.text_encoder)
    parts: dict[str, list[Tensor]] = {"embedding": [], "tokens": [], "token_mask": []}
    for start in range(0, len(prompts), batch_size):
        ids = tokenizer(
            prompts[start : start + batch_size],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        output = encoder(ids.to(encoder.device))
        parts["embedding"].append(output.pooler_output.float().cpu())
        parts["tokens"].append(output.last_hidden_state.float().cpu())
        parts["token_mask"].append(family.token_mask(pipe, ids))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}
