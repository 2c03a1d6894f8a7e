"""Prompts that a text encoder does not read to their end."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

Limit = tuple[PreTrainedTokenizerBase, int]
"""A tokenizer of the pipeline and the tokens that the pipeline really lets through, begin and end included."""


def too_long(tokenizer: PreTrainedTokenizerBase, limit: int, prompts: Sequence[str]) -> list[bool]:
    """Whether each prompt has more than ``limit`` tokens, those that the tokenizer adds included.

    ``prompts`` are what the pipeline gives its tokenizer, with its template around them where it has one.
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


def truncation_note(flags: Sequence[bool], limit: int) -> str:
    """One line for the terminal; empty when nothing is cut. ``limit`` is the smallest one."""
    cut = sum(flags)
    if not cut:
        return ""
    are = "prompts are" if cut > 1 else "prompt is"
    return f"{cut} of {len(flags)} {are} longer than the text encoder's {limit} tokens: the rest of each is not read"
