"""Prompts that a text encoder does not read to their end."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from diffusers import DiffusionPipeline
from transformers import PreTrainedTokenizerBase

from probe_lab.backbones.families import family_of
from probe_lab.config import Sampling

Limit = tuple[PreTrainedTokenizerBase, int]
"""A tokenizer of the pipeline and the tokens that the pipeline really lets through, begin and end included."""


def too_long(tokenizer: PreTrainedTokenizerBase, limit: int, prompts: Sequence[str]) -> list[bool]:
    """Whether each prompt has more than ``limit`` tokens, those that the tokenizer adds included.

    A template that the pipeline puts around a prompt is not counted.
    """
    if not prompts:
        return []
    # Not verbose: the library would warn of one prompt, about indexing errors that cannot happen here.
    ids = tokenizer(list(prompts), padding=False, truncation=False, verbose=False)["input_ids"]
    return [len(row) > limit for row in ids]


def truncated(limits: Sequence[Limit], prompts: Sequence[str]) -> list[bool]:
    """Whether any of the pipeline's tokenizers cuts each prompt."""
    cut = [too_long(tokenizer, limit, prompts) for tokenizer, limit in limits]
    return [any(flags) for flags in zip(*cut, strict=True)]


def truncation_note(limits: Sequence[Limit], prompts: Sequence[str]) -> str:
    """One line for the terminal; empty when nothing is cut."""
    cut = sum(truncated(limits, prompts))
    if not cut:
        return ""
    are = "prompts are" if cut > 1 else "prompt is"
    limit = min(limit for _, limit in limits)
    return f"{cut} of {len(prompts)} {are} longer than the text encoder's {limit} tokens: the rest of each is not read"


def token_limits(pipe: DiffusionPipeline, sampling: Sampling) -> list[Limit]:
    """For every part of the text that the denoiser reads, its tokenizer and how many tokens it keeps.

    A template around the prompt (Qwen-Image, FLUX.2) is not counted.
    """
    family = family_of(pipe)
    own = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
    limits: list[Limit] = []
    for text in family.texts:
        tokenizer = getattr(pipe, text.tokenizer)
        shared = text.beside and bool(limits)  # those positions are counted
        if tokenizer is not None and not shared:
            tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
            fixed = text.fixed or own is None
            length = sampling.max_sequence_length or (own.default if own else 0)
            limits.append((tokenizer, tokenizer.model_max_length if fixed else length))
    return limits
