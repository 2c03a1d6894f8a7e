"""Prompts as the token ids that a CLIP was trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip import SimpleTokenizer
from open_clip.tokenizer import HFTokenizer
from torch import Tensor
from transformers import AutoTokenizer

from probe_lab.evaluators.checkpoints import Checkpoint

FILES = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "vocab.json", "merges.txt")
VOCABULARY = 49408
"""Of OpenAI's tokenizer, which open_clip brings along."""


@dataclass(frozen=True)
class Tokens:
    """Of n prompts: ``ids`` int64 [n, L]; ``length`` int64 [n], begin and end included; ``truncated`` bool [n]."""

    ids: Tensor
    length: Tensor
    truncated: Tensor


@dataclass(frozen=True)
class ClipTokenizer:
    """``encode`` gives all ids of a prompt, from begin to end; what is longer than ``context`` loses its last words.

    The end stays, as in the original: it is where CLIP reads the prompt off.
    """

    encode: Callable[[str], list[int]]
    context: int
    pad: int = 0

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        rows = [self.encode(prompt) for prompt in prompts]
        ids = torch.full((len(rows), self.context), self.pad)
        for index, row in enumerate(rows):
            kept = row if len(row) <= self.context else [*row[: self.context - 1], row[-1]]
            ids[index, : len(kept)] = torch.tensor(kept)
        length = torch.tensor([len(row) for row in rows])
        return Tokens(ids, length.clamp(max=self.context), length > self.context)


def openai_tokenizer(context: int) -> ClipTokenizer:
    """The one of OpenAI and open_clip: text is mended (ftfy), unescaped and put in lower case."""
    simple = SimpleTokenizer(context_length=context)
    return ClipTokenizer(lambda text: [simple.sot_token_id, *simple.encode(text), simple.eot_token_id], context)


def own_tokenizer(folder: Path, context: int, *, cleaned: bool) -> ClipTokenizer:
    """That of the files of a model; ``cleaned``: text is mended and unescaped before, as open_clip does and
    ``transformers`` does not.
    """
    if cleaned:
        wrapped = HFTokenizer(str(folder), context_length=context)
        tokenizer, clean = wrapped.tokenizer, wrapped.clean_fn
    else:
        tokenizer, clean = AutoTokenizer.from_pretrained(folder), str
    # Not verbose: it would warn of prompts that are cut only afterwards.
    return ClipTokenizer(
        lambda text: list(tokenizer(clean(text), verbose=False)["input_ids"]), context, tokenizer.pad_token_id
    )


def tokenizer_folder(checkpoint: Checkpoint) -> Path | None:
    """Where the files of the model's own tokenizer lie beside its weights; None if it has none."""
    found = {file: checkpoint.beside(file) for file in FILES}
    if found["tokenizer.json"] or (found["vocab.json"] and found["merges.txt"]):
        return checkpoint.path.parent
    return None
