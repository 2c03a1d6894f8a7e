from __future__ import annotations

import itertools
from pathlib import Path

from transformers import CLIPTokenizer

from probe_lab.shapes.captions import sample_captions
from tools.tiny_models.tokenizer import MAX_TOKENS, WORDS, build_tokenizer


def test_every_word_of_the_world_is_one_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    ids = [tokenizer(word).input_ids for word in WORDS]
    assert all(len(word_ids) == 3 for word_ids in ids)
    assert len({word_ids[1] for word_ids in ids}) == len(WORDS)
    for caption in itertools.islice(sample_captions(0), 300):
        tokens = tokenizer(caption).input_ids
        assert len(tokens) == len(caption.split()) + 2 <= MAX_TOKENS
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == caption


def test_other_text_falls_back_to_bytes_and_survives_saving(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    text = "émoji 😀 zebra"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    tokenizer.save_pretrained(tmp_path / "saved")
    again = CLIPTokenizer.from_pretrained(tmp_path / "saved")
    assert again(text).input_ids == ids
    assert (again.model_max_length, again.eos_token_id) == (MAX_TOKENS, tokenizer.eos_token_id)
