"""What the capture has to know of a kind of model, as the answers of one ``Family`` each."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from probe_lab.backbones.token_grid import Arguments, TokenGrid, packed
from probe_lab.config import Sampling
from probe_lab.errors import CaptureError, nearest
from probe_lab.taps import Tap

Order = Literal["cross", "image, text", "text, image"]
"""What a text-reading layer attends to: text alone, or one sequence of both, in this order."""

PAPER_BLOCKS = 10
"""Diffusion Probe reads the attention of ten consecutive blocks."""


def has_patterns(taps: Sequence[str]) -> bool:
    """Whether it takes the model to tell which taps these are."""
    return any(tap == "paper" or "*" in tap or "?" in tap for tap in taps)


def output_path(module: nn.Module, path: str) -> str:
    """Path of the module whose output is that of ``module``, at ``path``: a block of a UNet that does not resample ends
    in one of its parts."""
    resnets, attentions = (list(getattr(module, name, None) or ()) for name in ("resnets", "attentions"))
    if not resnets or getattr(module, "upsamplers", None) or getattr(module, "downsamplers", None):
        return path
    last = "attentions" if len(attentions) == len(resnets) else "resnets"
    return f"{path}.{last}.{len(resnets) - 1}"


@dataclass(frozen=True)
class TextTokens:
    """One part of the text tokens that the denoiser reads: who encoded it and who cut it into tokens.

    ``fixed``: always as many tokens as the tokenizer's own limit, whatever ``max_sequence_length`` says.
    ``beside``: each of its tokens is in one position with that of the part before, so either may be a real one.
    """

    encoder: str = "text_encoder"
    tokenizer: str = "tokenizer"
    fixed: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Family:
    """A kind of pipeline: where its parts are and how its tensors are laid out.

    Attributes:
        name: what an experiment calls it.
        pipelines: names of the diffusers classes.
        denoiser: attribute of the pipeline.
        order: what a text-reading layer attends to.
        blocks: pattern of the module paths of transformer blocks, each an attention and an activation tap.
        activations: pattern of further modules whose output can be read.
        paper_attention: pattern of the blocks among which Diffusion Probe's ten are chosen.
        paper_part: whether those are the ``"last"`` ten or the ``"middle"`` ten.
        paper_activation: pattern of the module that Probe-Select reads; of several, the one five sixths down.
        grid: height and width of the finest grid of image tokens, from the arguments of a denoiser call.
        unpack: the scheduler's sample and that grid to [n, C, h, w].
        pack: the way back, from [n, C, h, w] to the sample.
        texts: who made the text tokens, in their order; padding is told from the token ids.
        mask: the denoiser's argument that marks real text tokens, where there is one: then ``texts`` are not asked.
        pooled: the pooled prompt embedding [n, D] in the arguments of a denoiser call, where there is one.
        ends_in_summary: whether, where there is no pooled one, the last real token stands for the prompt (CLIP).
        guidance: the pipeline argument that guidance is.
        negative: the negative prompt without which the pipeline does not guide; empty where it needs none.
        fixed: further arguments of every pipeline call.
        mixes_masks: whether, for several prompts with several images each, the pipeline repeats the masks in another
            order than the embeddings (as of diffusers 0.42): then prompts have to be repeated instead.
    """

    name: str
    pipelines: tuple[str, ...]
    denoiser: str
    order: Order
    blocks: str
    grid: Callable[[nn.Module, Arguments], TokenGrid]
    unpack: Callable[[Tensor, TokenGrid], Tensor]
    paper_attention: str
    paper_part: Literal["last", "middle"]
    paper_activation: str
    activations: str = ""
    pack: Callable[[Tensor], Tensor] = packed
    texts: tuple[TextTokens, ...] = (TextTokens(),)
    mask: str = ""
    pooled: Callable[[Arguments], Tensor | None] = lambda arguments: None
    ends_in_summary: bool = False
    guidance: str = "guidance_scale"
    negative: str = ""
    fixed: Mapping[str, object] = field(default_factory=dict)
    mixes_masks: bool = False

    def denoiser_of(self, pipe: DiffusionPipeline) -> nn.Module:
        module = getattr(pipe, self.denoiser)
        assert isinstance(module, nn.Module)
        return module

    def text_layers(self, module: nn.Module, path: str) -> list[str]:
        """Paths of the layers at or below ``module``, which is at ``path``, in which the image attends to the text."""
        return [name for name, part in module.named_modules(prefix=path) if self._reads_text(name, part)]

    def _reads_text(self, path: str, module: nn.Module) -> bool:
        if self.order == "cross":
            return isinstance(module, Attention) and module.is_cross_attention
        return path.rpartition(".")[2] == "attn"

    def is_block(self, path: str) -> bool:
        return re.fullmatch(self.blocks, path) is not None

    def taps(self, pipe: DiffusionPipeline) -> list[Tap]:
        """Every place that can be read, in the order of the denoiser's modules; then those without a place."""
        found: list[Tap] = []
        for path, _ in self.denoiser_of(pipe).named_modules():
            if self.is_block(path):
                found += [Tap(path, "attention"), Tap(path, "activation")]
            elif self.activations and re.fullmatch(self.activations, path):
                found.append(Tap(path, "activation"))
        return [*found, Tap("", "latent"), Tap("", "x0"), Tap("", "lookahead")]

    def paper_taps(self, pipe: DiffusionPipeline) -> list[Tap]:
        """The attention that Diffusion Probe reads and the activation that Probe-Select reads, where there is one."""
        paths = [path for path, _ in self.denoiser_of(pipe).named_modules()]
        blocks = [path for path in paths if re.fullmatch(self.paper_attention, path)]
        first = max(0, len(blocks) - PAPER_BLOCKS)
        first = first if self.paper_part == "last" else first // 2
        outputs = [path for path in paths if re.fullmatch(self.paper_activation, path)]
        attention = [Tap(path, "attention") for path in blocks[first : first + PAPER_BLOCKS]]
        deep = 5 * len(outputs) // 6
        return attention + [Tap(path, "activation") for path in outputs[deep : deep + 1]]

    def choose(self, pipe: DiffusionPipeline, wanted: Sequence[str]) -> list[Tap]:
        """The taps that an experiment names: one by one, by a pattern (``up_blocks.*/attention``), or ``paper``.

        Of taps that hold the same tensor, patterns choose one: one that is named beside them, else the papers', else
        the first.

        Raises:
            CaptureError: a pattern that no tap matches.
        """
        patterns = [text for text in wanted if text != "paper" and ("*" in text or "?" in text)]
        named = [text for text in wanted if text not in patterns]
        taken = self._sources(pipe, self.choose(pipe, named)) if patterns and named else {}
        chosen: dict[Tap, None] = {}
        for text in wanted:
            if text == "paper":
                chosen |= dict.fromkeys(self.paper_taps(pipe))
            elif "*" in text or "?" in text:
                known = self.taps(pipe)
                matched = [tap for tap in known if fnmatchcase(str(tap), text)]
                if not matched:
                    raise CaptureError(f"'{text}' matches no tap of the backbone: {nearest(text, map(str, known))}")
                for tap, source in self._sources(pipe, matched).items():
                    if source not in taken.values():
                        taken[tap] = source
                chosen |= dict.fromkeys(tap for tap in matched if tap in taken)
            else:
                chosen[Tap.parse(text)] = None
        return list(chosen)

    def _sources(self, pipe: DiffusionPipeline, taps: Sequence[Tap]) -> dict[Tap, Hashable]:
        """What each tap's tensor is made of: taps with the same source hold the same numbers. The papers' come first,
        then all others in their order."""
        modules = dict(self.denoiser_of(pipe).named_modules())

        def source(tap: Tap) -> Hashable:
            if tap.module not in modules:
                return tap
            if tap.kind == "attention":
                return tap.kind, *self.text_layers(modules[tap.module], tap.module)
            return tap.kind, output_path(modules[tap.module], tap.module)

        paper = self.paper_taps(pipe)
        return {tap: source(tap) for tap in sorted(taps, key=lambda tap: tap not in paper)}

    def call_options(self, sampling: Sampling, prompts: list[str]) -> dict[str, object]:
        """Keyword arguments of a pipeline call that draws ``prompts`` as an experiment asks for it."""
        options: dict[str, object] = {
            "prompt": prompts,
            "num_inference_steps": sampling.steps,
            self.guidance: sampling.guidance,
            "height": sampling.height,
            "width": sampling.width,
            **self.fixed,
        }
        if self.negative and sampling.guidance > 1:
            options["negative_prompt"] = [self.negative] * len(prompts)
        if sampling.max_sequence_length:
            options["max_sequence_length"] = sampling.max_sequence_length
        return options
