"""Prompts as token ids, against open_clip's and transformers' own tokenizers."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from transformers import AutoTokenizer

from probe_lab.evaluators.clip_tokens import ClipTokenizer, openai_tokenizer, own_tokenizer


def test_prompts_are_cut_as_in_the_originals(prompts: list[str], transformers_clip: Path) -> None:
    """77 tokens, the last of which is the end."""
    odd = [*prompts, "naïve café — “quotes”, it's 3.14!", "日本語 🎨🖼️", "word " * 100]
    simple = openai_tokenizer(77)(odd)
    assert torch.equal(simple.ids, open_clip.get_tokenizer("ViT-B-16")(odd))
    assert simple.ids[-1, -1] == 49407
    theirs = AutoTokenizer.from_pretrained(transformers_clip)
    own = own_tokenizer(transformers_clip, 12, cleaned=False)(odd)
    padded = theirs(odd, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    assert torch.equal(own.ids, padded["input_ids"])
    assert torch.equal(own.length, padded["attention_mask"].sum(1))
    assert own.truncated.tolist() == [len(each) > 12 for each in theirs(odd, verbose=False)["input_ids"]]


def test_truncation_by_hand() -> None:
    tokens = ClipTokenizer(lambda text: [7, *map(int, text.split()), 9], context=4, pad=5)(["1", "", "1 2", "1 2 3"])
    assert tokens.ids.tolist() == [[7, 1, 9, 5], [7, 9, 5, 5], [7, 1, 2, 9], [7, 1, 2, 9]]
    assert tokens.length.tolist() == [3, 2, 4, 4]
    assert tokens.truncated.tolist() == [False, False, False, True]
