"""Tokenizers and tiny random text encoders of the real classes, built offline for ``tiny_pipelines``."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tools.tiny_models.tokenizer import MAX_TOKENS, WORDS, build_tokenizer

WIDTH = 32
"""Width of every text encoder."""

T5_TOKENS = 20
INSTRUCTION = ["Describe the shapes:", "User Prompt: "]
"""A short ``complex_human_instruction`` for Sana."""

QWEN_SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
CORPUS = [" ".join(WORDS), *WORDS, SYSTEM_MESSAGE, QWEN_SYSTEM, "system", "user", "assistant", "\n", *INSTRUCTION]

_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MISTRAL_TEMPLATE = (
    "<s>{% for message in messages %}"
    "{% if message.role == 'system' %}[SYSTEM_PROMPT]{{ message.content[0].text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ message.content[0].text }}[/INST]{% endif %}{% endfor %}"
)


def clip_tokenizer(folder: Path, *, pad_token: str | None = None) -> CLIPTokenizer:
    """24 tokens, padded with end-of-text as in SD 1.5, or with another token as in SDXL's second encoder."""
    tokenizer = build_tokenizer(folder)
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    return tokenizer


def clip_encoder(tokenizer: CLIPTokenizer, *, projection: bool = False) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def t5_tokenizer() -> T5Tokenizer:
    letters = sorted(set("".join(WORDS)))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in dict.fromkeys(WORDS))]
    known = {piece for piece, _ in pieces}
    pieces += [(letter, -9.0) for letter in ["▁", *letters] if letter not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def t5_encoder(tokenizer: T5Tokenizer, *, width: int = WIDTH) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=16,
            d_ff=2 * WIDTH,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def _decoder(vocabulary: int, layers: int) -> dict[str, int]:
    """What the configurations of Gemma, Qwen and Mistral have in common."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _trained(pre_tokenizer: pre_tokenizers.PreTokenizer, alphabet: list[str], *, spaces: str = " ") -> dict:
    """``vocab`` and ``merges`` of a BPE that knows every word of the corpus as one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", spaces)
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=8000, min_frequency=0, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def _byte_level() -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]|\n| "), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gemma_tokenizer() -> GemmaTokenizer:
    letters = [*sorted(set("".join(CORPUS)) - {" "}), "▁"]
    trained = _trained(pre_tokenizers.Split("▁", behavior="merged_with_next"), letters, spaces="▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {token: i for i, token in enumerate([*special, *trained["vocab"]])}
    return GemmaTokenizer(vocab=vocab, merges=trained["merges"], add_bos_token=True, model_max_length=512)


def gemma_encoder(tokenizer: GemmaTokenizer) -> Gemma2Model:
    return Gemma2Model(Gemma2Config(**_decoder(len(tokenizer), 1), query_pre_attn_scalar=16))


def qwen_tokenizer() -> Qwen2Tokenizer:
    return Qwen2Tokenizer(
        **_trained(_byte_level(), pre_tokenizers.ByteLevel.alphabet()),
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=_QWEN_TEMPLATE,
        model_max_length=2048,
    )


def qwen_vl_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    text = _decoder(len(tokenizer), 1) | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def qwen3_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**_decoder(len(tokenizer), 3)))


def mistral_processor() -> PixtralProcessor:
    """Padded on the left, as chat models are."""
    trained = _trained(_byte_level(), pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab=trained["vocab"], merges=trained["merges"]))
    tokenizer.pre_tokenizer = _byte_level()
    special = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=special,
        padding_side="left",
        model_max_length=2048,
    )
    return PixtralProcessor(image_processor=PixtralImageProcessor(), tokenizer=fast, chat_template=_MISTRAL_TEMPLATE)


def mistral_encoder(processor: PixtralProcessor) -> Mistral3ForConditionalGeneration:
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 32,
        "patch_size": 16,
    }
    text = _decoder(len(processor.tokenizer), 3) | {"model_type": "mistral"}
    config = Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=processor.tokenizer.convert_tokens_to_ids("[IMG]")
    )
    return Mistral3ForConditionalGeneration(config)
