"""A CLIP tokenizer that knows the words of the shapes world, one token per word; other text falls back to bytes."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CLIPTextConfig, CLIPTokenizer

from probe_lab.shapes.captions import COLOURS, LINKS, MAX_OBJECTS, SHAPES

WORDS: tuple[str, ...] = (
    "a",
    *sorted({word for link in LINKS for word in link.split()}),
    *COLOURS,
    *SHAPES,
)

MAX_TOKENS = 2 + 3 * MAX_OBJECTS + 2 * (MAX_OBJECTS - 1) + 4
"""Begin and end, the longest caption of the grammar, and four to spare: 24."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's byte-level BPE, which CLIP uses too."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def _merges() -> list[tuple[str, str]]:
    """Merges that build each word from its left end; a merge that two words share stands once.

    Long words come first: BPE applies the earliest merge that fits anywhere, and "an" of "and" would split "triangle".
    """
    merges: dict[tuple[str, str], None] = {}
    for word in sorted(WORDS, key=len, reverse=True):
        symbols = [*word[:-1], word[-1] + "</w>"]
        left = symbols[0]
        for symbol in symbols[1:]:
            merges[(left, symbol)] = None
            left += symbol
    return list(merges)


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write ``vocab.json`` and ``merges.txt`` below ``folder`` and load them the way a real checkpoint is loaded."""
    symbols = _byte_symbols()
    merges = _merges()
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges] + [_START, _END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=_END,
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
        model_max_length=MAX_TOKENS,
    )


def text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    """A CLIP text encoder of three layers for the tokens of ``tokenizer``."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
