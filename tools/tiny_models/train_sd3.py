"""tiny-sd3: a joint-attention transformer and its two CLIP text encoders, trained from scratch by flow matching."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from tools.tiny_models.recipe import TextToImage
from tools.tiny_models.tokenizer import text_config
from tools.tiny_models.train_vae import LATENT_CHANNELS

TEXT_WIDTH = 64
"""Of each of the two text encoders; the pipeline joins them along the channels."""

TRAIN_TIMESTEPS = 1000
T5_TOKENS, LONG_T5_TOKENS, LONG_EVERY = 8, 256, 24
"""Instead of T5's, the pipeline appends ``max_sequence_length`` tokens of zeros to the prompt (256 by default).

They are alike, so that few do for most of the training; one batch in 24 has the default number, so that the
backbone works with it too.
"""


class JointDenoiser(TextToImage):
    """The trained parts of a ``StableDiffusion3Pipeline``."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = _text_encoder(tokenizer)
        self.text_encoder_2 = _text_encoder(tokenizer)
        self.transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=6,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=2 * TEXT_WIDTH,
            caption_projection_dim=128,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=16,
            qk_norm="rms_norm",
        )
        _start_as_identity(self.transformer)

    def denoiser(self) -> nn.Module:
        return self.transformer

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """σ, logit-normal."""
        return torch.randn(count, generator=generator).sigmoid()

    def loss(self, clean: Tensor, noise: Tensor, times: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Rectified flow: the velocity ε − x₀ at x_σ = (1 − σ)·x₀ + σ·ε (arXiv 2403.03206, §3.1)."""
        is_long = int(torch.randint(LONG_EVERY, (), generator=generator)) == 0
        sigma = times[:, None, None, None]
        text, pooled = self._encode(tokens, LONG_T5_TOKENS if is_long else T5_TOKENS)
        velocity = self.transformer(
            hidden_states=(1 - sigma) * clean + sigma * noise,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=times * TRAIN_TIMESTEPS,
            return_dict=False,
        )[0]
        return F.mse_loss(velocity.float(), noise - clean)

    def _encode(self, tokens: Tensor, zeros: int) -> tuple[Tensor, Tensor]:
        """Prompt embeddings and pooled ones, as the pipeline makes them: the last layer but one of each encoder."""
        outputs = [encoder(tokens, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        text = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        pooled = torch.cat([output.text_embeds for output in outputs], -1)
        return F.pad(text, (0, 0, 0, zeros)), pooled


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMESTEPS, shift=1.0)


def silent_t5() -> tuple[T5EncoderModel, PreTrainedTokenizerFast]:
    """A T5 encoder that answers zeros, and a tokenizer that reads every text as empty.

    That is what the pipeline does without a T5, but a folder without one cannot be loaded by ``from_pretrained`` alone.
    """
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.normalizer = Replace(Regex(r"[\s\S]+"), "")
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=LONG_T5_TOKENS
    )
    encoder = T5EncoderModel(T5Config(vocab_size=3, d_model=2 * TEXT_WIDTH, d_kv=8, d_ff=8, num_layers=1, num_heads=1))
    nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder, tokenizer


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(text_config(tokenizer, TEXT_WIDTH))


def _start_as_identity(transformer: SD3Transformer2DModel) -> None:
    """Zero what modulates the blocks and what reads the last one out (adaLN-Zero, arXiv 2212.09748, §3.2)."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (name.endswith(".linear") or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
