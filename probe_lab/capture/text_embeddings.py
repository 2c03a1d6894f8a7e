"""Text embeddings of prompts as the denoiser is given them, once per prompt."""

from __future__ import annotations

from contextlib import ExitStack

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.backbones.family import Family
from probe_lab.backbones.token_grid import Arguments
from probe_lab.backbones.truncation import token_limits, truncated
from probe_lab.capture.call import PipelineCall
from probe_lab.config import Sampling

ENCODER = "backbone"
"""Name under which the cache keeps them: ``text/backbone.safetensors``."""


class _Read(Exception):
    """The denoiser has been given the text: the rest of the call is not wanted."""


def encode_prompts(
    pipe: DiffusionPipeline, sampling: Sampling, prompts: list[str], *, length: int = 0, batch_size: int = 64
) -> dict[str, Tensor]:
    """``embedding`` [P, D] and ``tokens`` [P, L, D'], float32; ``token_mask`` [P, L], bool.

    ``tokens`` are what the denoiser attends to, in its order: row i of an attention map belongs to token i.
    ``embedding`` is the pooled one that the denoiser is given; without one it is the last real token where that sums
    the prompt up (CLIP), else the mean of the real tokens. ``length`` cuts or fills the tokens, as in ``Capture``.
    """
    parts: dict[str, list[Tensor]] = {"embedding": [], "tokens": [], "token_mask": []}
    for start in range(0, len(prompts), batch_size):
        for name, tensor in _read(pipe, sampling, prompts[start : start + batch_size], length).items():
            parts[name].append(tensor)
    longest = max(part.shape[1] for part in parts["tokens"])  # the batches of Qwen-Image differ
    parts["tokens"] = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts["tokens"]]
    parts["token_mask"] = [F.pad(part, (0, longest - part.shape[1])) for part in parts["token_mask"]]
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def stored_text(
    pipe: DiffusionPipeline, sampling: Sampling, prompts: list[str], *, length: int = 0
) -> dict[str, Tensor]:
    """All that a cache keeps of prompts: ``encode_prompts`` and, of each, whether a tokenizer cuts it, ``truncated``
    [P]."""
    cut = torch.tensor(truncated(token_limits(pipe, sampling), prompts))
    return encode_prompts(pipe, sampling, prompts, length=length) | {"truncated": cut}


def _read(pipe: DiffusionPipeline, sampling: Sampling, prompts: list[str], length: int) -> dict[str, Tensor]:
    """Run the pipeline up to its first denoiser call and take the text from there."""
    family = family_of(pipe)
    found: dict[str, Tensor] = {}

    def receive(arguments: Arguments) -> None:
        found.update(text_of(call, family, arguments, length))
        raise _Read

    call = PipelineCall(pipe, family, before_denoiser=receive)
    with ExitStack() as stack:
        call.watch(stack)
        try:
            pipe(**family.call_options(sampling, prompts))
        except _Read:
            pipe.maybe_free_model_hooks()  # as the pipeline itself does at its end, with offloaded parts
    return found


def text_of(call: PipelineCall, family: Family, arguments: Arguments, length: int = 0) -> dict[str, Tensor]:
    """``embedding``, ``tokens`` and ``token_mask`` of each image of a call, as ``encode_prompts`` has them per prompt.

    ``arguments`` are those of its first denoiser call. ``token_mask`` is missing where nothing tells padding from text.
    """
    # At once, and not of all prompts at the end: FLUX has 8 MB of text per prompt, nearly all of it padding.
    tokens = call.conditional(arguments["encoder_hidden_states"]).float().cpu()
    mask = call.token_mask(arguments)
    known = torch.ones(tokens.shape[:2], dtype=torch.bool, device="cpu") if mask is None else mask
    beyond = length - known.shape[1] if length else 0
    found = {"tokens": F.pad(tokens, (0, 0, 0, beyond))}
    if mask is not None:
        found["token_mask"] = F.pad(mask, (0, beyond))
    pooled = family.pooled(arguments)
    if pooled is not None:
        found["embedding"] = call.conditional(pooled).float().cpu()
    elif family.ends_in_summary:
        found["embedding"] = tokens[torch.arange(len(tokens), device="cpu"), known.sum(1) - 1]
    else:
        found["embedding"] = (tokens * known[..., None]).sum(1) / known.sum(1, keepdim=True).clamp_min(1)
    return found
