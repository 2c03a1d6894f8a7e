"""Both towers of a CLIP on ``open_clip``, with released weights: pictures and prompts as embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

from probe_lab.errors import ScoreError
from probe_lab.evaluators.checkpoints import Checkpoint, load_strictly
from probe_lab.evaluators.clip_keys import open_clip_keys
from probe_lab.evaluators.clip_spec import ClipSpec
from probe_lab.evaluators.clip_tokens import VOCABULARY, ClipTokenizer, Tokens, openai_tokenizer, own_tokenizer


class ClipTower(nn.Module):
    """Both towers with their tokenizer; ``scale`` is exp(logit_scale), of the weights before any cast."""

    def __init__(self, clip: CLIP, tokenizer: ClipTokenizer) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.scale = clip.logit_scale.detach().double().exp().item()

    def pictures(self, pixels: Tensor) -> Tensor:
        """L2-normalised embeddings float32 [b, D] of [b, 3, H, W]."""
        return F.normalize(self.clip.encode_image(pixels).float(), dim=-1)

    def prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tokens]:
        """L2-normalised embeddings [n, D] and the states of all tokens after the last norm [n, L, D'], float32."""
        states: list[Tensor] = []
        tokens = self.tokenizer(prompts)
        handle = self.clip.ln_final.register_forward_hook(lambda module, arguments, output: states.append(output))
        try:
            embedding = self.clip.encode_text(tokens.ids.to(self.clip.positional_embedding.device))
        finally:
            handle.remove()
        return F.normalize(embedding.float(), dim=-1), states[0].float(), tokens


def build_tower(spec: ClipSpec, checkpoint: Checkpoint) -> ClipTower:
    """float32 on the CPU. ScoreError when the weights are not of this architecture."""
    try:
        with torch.device("meta"):  # drawing a billion random weights takes longer than reading the right ones
            clip = CLIP(**spec.config)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise ScoreError(f"open_clip cannot build what {checkpoint.path.parent} describes: {error}") from error
    load_strictly(clip, open_clip_keys(checkpoint.tensors()), checkpoint.path)
    if clip.attn_mask is not None:  # not part of the weights
        clip.attn_mask = torch.full(clip.attn_mask.shape, -torch.inf).triu(1)
    context, vocabulary = clip.context_length, clip.vocab_size
    if spec.tokenizer:
        return ClipTower(clip, own_tokenizer(spec.tokenizer, context, cleaned=spec.cleaned))
    if vocabulary != VOCABULARY:
        raise ScoreError(
            f"{checkpoint.path.parent} has {vocabulary} tokens and no tokenizer, and CLIP's usual one has {VOCABULARY}:"
            " lay tokenizer.json and tokenizer_config.json beside the weights"
        )
    return ClipTower(clip, openai_tokenizer(context))
