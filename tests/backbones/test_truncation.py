"""Prompts that a tokenizer would cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from probe_lab.backbones.truncation import token_limits, too_long, truncated, truncation_note
from probe_lab.capture.text_embeddings import encode_prompts
from probe_lab.config import Sampling
from tools.tiny_models.tokenizer import MAX_TOKENS, build_tokenizer

WORDS = [0, 1, MAX_TOKENS - 3, MAX_TOKENS - 2, MAX_TOKENS - 1, 3 * MAX_TOKENS]
PROMPTS = [" ".join(["red"] * words) for words in WORDS]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def t5() -> PreTrainedTokenizerBase:
    """One end token and no begin, as T5 has; its own ``model_max_length`` is not what pipelines apply."""
    tokenizer = Tokenizer(WordLevel({"</s>": 0, "<unk>": 1, "red": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", model_max_length=4)


def test_a_prompt_that_just_fits_is_not_too_long(clip: PreTrainedTokenizerBase, t5: PreTrainedTokenizerBase) -> None:
    assert too_long(clip, MAX_TOKENS, PROMPTS) == [words + 2 > MAX_TOKENS for words in WORDS]
    assert too_long(t5, MAX_TOKENS, PROMPTS) == [words + 1 > MAX_TOKENS for words in WORDS]
    assert too_long(clip, MAX_TOKENS, []) == []


def test_it_is_what_truncation_cuts(clip: PreTrainedTokenizerBase) -> None:
    for limit in (8, MAX_TOKENS):
        whole = clip(PROMPTS)["input_ids"]
        cut = clip(PROMPTS, truncation=True, max_length=limit)["input_ids"]
        assert too_long(clip, limit, PROMPTS) == [a != b for a, b in zip(whole, cut, strict=True)]


def test_any_tokenizer_of_a_pipeline_counts(clip: PreTrainedTokenizerBase, t5: PreTrainedTokenizerBase) -> None:
    assert truncated([(clip, MAX_TOKENS), (t5, 512)], PROMPTS) == too_long(clip, MAX_TOKENS, PROMPTS)
    assert truncated([(clip, MAX_TOKENS), (t5, 1)], PROMPTS) == [False, True, True, True, True, True]


def test_the_library_does_not_warn_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        fresh = build_tokenizer(tmp_path)  # it warns once in its life
        too_long(fresh, MAX_TOKENS, PROMPTS)
        assert caplog.text == ""
        fresh(PROMPTS[-1])
        assert "longer than the specified maximum" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_the_note_counts(clip: PreTrainedTokenizerBase) -> None:
    assert truncation_note([(clip, MAX_TOKENS)], PROMPTS[:4]) == ""
    assert truncation_note([(clip, MAX_TOKENS), (clip, 512)], PROMPTS) == (
        f"2 of 6 prompts are longer than the text encoder's {MAX_TOKENS} tokens: the rest of each is not read"
    )
    assert truncation_note([(clip, MAX_TOKENS)], PROMPTS[-1:]).startswith("1 of 1 prompt is longer")


@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart", "sd3", "flux-dev", "qwen-image", "sana"])
def test_the_limit_of_a_pipeline_is_the_one_that_it_applies(
    tiny_pipe: Callable[[str], DiffusionPipeline], name: str
) -> None:
    """With a prompt that fills everything, the tokens that the denoiser is given are as many as the limits say."""
    pipe = tiny_pipe(name)
    sampling = Sampling(steps=2, height=32, width=64, max_sequence_length=0 if name in ("sd", "sdxl") else 20)
    limits = token_limits(pipe, sampling)
    text = encode_prompts(pipe, sampling, [" ".join(["red"] * 100)])
    assert text["tokens"].shape[1] == sum(limit for _, limit in limits)
    assert all(truncated(limits, [" ".join(["red"] * 100)]))
    assert not any(truncated(limits, ["red"]))
