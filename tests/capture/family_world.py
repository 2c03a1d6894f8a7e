"""One pipeline call of a family, seen by ``Capture`` and by the independent recorder at once."""

from __future__ import annotations

from dataclasses import dataclass

import eager
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tiny_pipelines import CALL, run
from tiny_text import INSTRUCTION, T5_TOKENS
from torch import Tensor

from probe_lab.capture import Capture, Tap

PROMPTS = ["a red circle", "a blue square left of a green cross", "a cyan triangle above a red square"]
EACH = 2
ROWS = len(PROMPTS) * EACH
STEP = 2
GRIDS = {240: (12, 20), 60: (6, 10), 15: (3, 5)}
"""Height and width that so many image tokens of a 96×160 image have."""


def taps_of(name: str) -> list[Tap]:
    blocks = [Tap(path, "attention") for path in CALL[name].attention]
    blocks += [Tap(path, "activation") for path in CALL[name].activation]
    return [*blocks, Tap("", "latent"), Tap("", "x0"), Tap("", "lookahead")]


@dataclass(frozen=True)
class Seen:
    """What both saw of a call with several prompts × several images at a non-square size."""

    name: str
    pipe: DiffusionPipeline
    guided: bool
    record: eager.Record
    capture: Capture
    over_text: Capture
    """The same with ``normalize="text"``."""

    @property
    def call(self) -> int:
        """Index of the conditional denoiser call of ``STEP``."""
        return (STEP - 1) * (2 if self.guided and CALL[self.name].guidance == "calls" else 1)

    @property
    def text_tokens(self) -> int:
        return self.record.text_tokens[self.call]

    def conditional(self, batch: Tensor) -> Tensor:
        return batch[ROWS:] if self.guided and CALL[self.name].guidance == "batch" else batch

    def eager_map(self, path: str) -> Tensor:
        """float64 [rows, tokens, image tokens], the mean over the text-reading layers below ``path``; no token is
        left out."""
        denoiser = eager.denoiser_of(self.pipe)
        maps = [
            eager.eager_attention(
                denoiser.get_submodule(layer), self.record.attention[layer][self.call], self.text_tokens
            )
            for layer in eager.text_layers(self.pipe, path)
        ]
        return self.conditional(torch.stack(maps).mean(0))


def see(pipe: DiffusionPipeline, name: str, *, guided: bool) -> Seen:
    call, taps = CALL[name], taps_of(name)
    layers = [layer for path in call.attention for layer in eager.text_layers(pipe, path)]
    with (
        Capture(pipe, taps, steps=[STEP]) as capture,
        Capture(pipe, taps, steps=[STEP], normalize="text") as over_text,
        eager.recorded(pipe, layers, call.activation) as record,
    ):
        run(pipe, name, PROMPTS, each=EACH, guided=guided)
    return Seen(name, pipe, guided, record, capture, over_text)


def real_tokens(name: str, pipe: DiffusionPipeline, prompts: list[str]) -> Tensor:
    """True for the tokens that are no padding: bool [prompts, tokens], counted from the text."""
    rows = [_real_row(name, pipe, prompt) for prompt in prompts]
    longest = max(map(len, rows))
    return torch.tensor([row + [False] * (longest - len(row)) for row in rows])


def _real_row(name: str, pipe: DiffusionPipeline, prompt: str) -> list[bool]:
    words = len(prompt.split())  # every word is one token
    clip = _padded(words + 2, 24)  # begin and end
    t5 = _padded(words + 1, T5_TOKENS)  # end
    if name in ("sd", "sd-v", "sdxl"):
        return clip
    if name in ("sd3", "sd3.5"):
        return clip + t5
    if name in ("pixart", "flux-dev", "flux-schnell"):
        return t5
    if name == "qwen-image":  # what stands before the prompt is dropped: "<|im_end|>\n<|im_start|>assistant\n" stays
        return _padded(words + 5, words + 5)
    if name == "flux2-klein":  # "<|im_start|>user\n" comes before
        return _padded(3 + words + 5, CALL[name].options["max_sequence_length"])
    if name == "flux2":  # padded on the left
        whole = f"<s>[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]{prompt}[/INST]"
        count = len(pipe.tokenizer.tokenizer(whole).input_ids)
        return _padded(count, CALL[name].options["max_sequence_length"])[::-1]
    assert name == "sana"
    instruction = "\n".join(INSTRUCTION)
    row = _padded(len(pipe.tokenizer.encode(instruction + prompt)), len(pipe.tokenizer.encode(instruction)) + 18)
    return [row[0], *row[-T5_TOKENS + 1 :]]


def _padded(count: int, length: int) -> list[bool]:
    assert count <= length
    return [True] * count + [False] * (length - count)
