"""What three published tools do to get attention maps, restated; and a fourth, run as it is installed.

Restated means: the same tensor operations in the same order and the same things kept, in our words, for the diffusers
that this project runs on, with the step at which the tool's users get maps, and without drawing. Nothing is added to a
tool's cost: warnings, unused options and files are left out. ``benchmarks/eager.py`` has the same methods without the
detours. The tests hold the maps against those of a capture.

- ``daam``: DAAM 0.2.0, github.com/castorini/daam (``daam/trace.py``, ``daam/hook.py``, ``daam/heatmap.py``). Text
  layers of a UNet's down and up blocks; a sum over the steps for every layer and head. It refuses several prompts.
- ``maps 0.1.5``: attention-map-diffusers 0.1.5, github.com/wooyeolbaek/attention-map-diffusers
  (``attention_map_diffusers/modules.py``, ``utils.py``). All text layers of a UNet, all joint layers of SD3; every step
  of every layer is kept, per head, the unconditional half too. For SD3 its README advises against batches.
- ``p2p``: prompt-to-prompt, github.com/google/prompt-to-prompt (``ptp_utils.py``, ``AttentionStore`` in
  ``prompt-to-prompt_stable.ipynb`` and ``null_text_w_ptp.ipynb``). All attention of a UNet, up to 32×32 positions.
- ``maps 1.0``: attention-map-diffusers 1.0, where it is installed, with its defaults. It no longer computes attention
  explicitly: it keeps query and key of each step until the next, and computes the maps of the last step alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from benchmarks.eager import LARGEST, join_heads, joint_projections, replaced_processors, split_heads
from probe_lab.backbones.families import family_of

HeatMaps = dict[tuple[str, int], Tensor]
"""By layer and head: [tokens, height, width], summed over the steps."""


class DaamProcessor:
    """Explicit attention; the conditional half goes to the layer's heat maps, one head at a time."""

    def __init__(self, name: str, kept: HeatMaps) -> None:
        self._name, self._kept = name, kept

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key)
        for head, maps in enumerate(_unravelled(probabilities)):
            previous = self._kept.get((self._name, head), 0.0)
            self._kept[self._name, head] = previous + maps
        mixed = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](mixed))


def _unravelled(probabilities: Tensor) -> Tensor:
    """[rows * heads, Q, tokens] as [heads, tokens, height, width] of the second half, token by token as DAAM does."""
    side = math.isqrt(probabilities.shape[1])
    maps = []
    for token in probabilities.permute(2, 0, 1):
        image = token.view(len(token), side, side)
        maps.append(image[len(image) // 2 :])
    return torch.stack(maps).permute(1, 0, 2, 3).contiguous()


def heat_map(kept: HeatMaps, side: int, tokens: int) -> Tensor:
    """Every head's map resized to the latent's side, and their mean: [tokens, side, side]."""
    resized = [
        F.interpolate(maps.unsqueeze(1), size=(side, side), mode="bicubic").clamp_(min=0) for maps in kept.values()
    ]
    return torch.stack(resized).mean(0)[:, 0][:tokens]


@contextmanager
def daam(pipe: DiffusionPipeline) -> Iterator[list[Tensor]]:
    """DAAM around one prompt's generation; the list has the heat map when it ends."""
    kept: HeatMaps = {}
    found: list[Tensor] = []

    def processor(name: str, module: Attention) -> DaamProcessor | None:
        return DaamProcessor(name, kept) if module.is_cross_attention and not name.startswith("mid_block") else None

    with replaced_processors(pipe.unet, processor):
        yield found
    # As many tokens as the prompt has is at most the tokenizer's limit; it only cuts what is computed already.
    found.append(heat_map(kept, pipe.unet.config.sample_size, pipe.tokenizer.model_max_length))


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(mixed values, probabilities), as the reference code in PyTorch's documentation has it: with a zero bias."""
    bias = torch.zeros(query.shape[-2], key.shape[-2], dtype=query.dtype)
    weights = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]))
    weights += bias.to(weights.device)
    weights = torch.softmax(weights, -1)
    return torch.dropout(weights, 0.0, train=True) @ value, weights


class EveryStep:
    """attention-map-diffusers 0.1.5: maps by step and layer, [rows, heads, height, width, tokens]."""

    def __init__(self) -> None:
        self.steps: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        self.grid = (0, 0)

    def begin(self, module: nn.Module, args: tuple[object, ...], arguments: dict[str, object]) -> None:
        self.steps[len(self.steps)] = {}

    def add(self, name: str, probabilities: Tensor) -> None:
        side = math.isqrt(probabilities.shape[2])
        # `.cpu()` of what lies on the CPU is the tensor itself: a part of the keys keeps all of them in memory.
        self.steps[len(self.steps) - 1][name] = probabilities.cpu().unflatten(2, (side, -1))

    def mean(self) -> Tensor:
        """Over steps and layers, of sums over heads, resized to the first layer's size: [n, tokens, height, width]."""
        layers = [maps for step in self.steps.values() for maps in step.values()]
        total = torch.zeros_like(layers[0].sum(1).chunk(2)[1].permute(0, 3, 1, 2))
        for layer in layers:
            maps = layer.sum(1).permute(0, 3, 1, 2).chunk(2)[1]
            total += F.interpolate(maps, size=total.shape[-2:], mode="bilinear", align_corners=False)
        return total.div_(len(layers))


class EveryStepProcessor:
    """Text layers of a UNet."""

    def __init__(self, name: str, kept: EveryStep) -> None:
        self._name, self._kept = name, kept

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key = split_heads(attn.to_k(encoder_hidden_states), attn.heads)
        value = split_heads(attn.to_v(encoder_hidden_states), attn.heads)
        mixed, probabilities = softmax_attention(query, key, value)
        self._kept.add(self._name, probabilities)
        return attn.to_out[1](attn.to_out[0](join_heads(mixed)))


class EveryStepJointProcessor:
    """Joint layers of SD3."""

    def __init__(self, name: str, kept: EveryStep) -> None:
        self._name, self._kept = name, kept

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> tuple[Tensor, Tensor | None]:
        positions = hidden_states.shape[1]
        query, key, value = joint_projections(attn, hidden_states, encoder_hidden_states)
        mixed, probabilities = softmax_attention(query, key, value)
        self._kept.add(self._name, probabilities[:, :, :positions, positions:])
        joined = join_heads(mixed)
        context = None if attn.context_pre_only else attn.to_add_out(joined[:, positions:])
        return attn.to_out[1](attn.to_out[0](joined[:, :positions])), context


@contextmanager
def maps_0_1_5(pipe: DiffusionPipeline) -> Iterator[list[Tensor]]:
    """attention-map-diffusers 0.1.5 around a generation; the list has the mean map when it ends."""
    kept = EveryStep()
    found: list[Tensor] = []
    denoiser = family_of(pipe).denoiser_of(pipe)

    def processor(name: str, module: Attention) -> EveryStepProcessor | EveryStepJointProcessor | None:
        if module.add_q_proj is not None:
            return EveryStepJointProcessor(name, kept)
        return EveryStepProcessor(name, kept) if module.is_cross_attention else None

    hook = denoiser.register_forward_pre_hook(kept.begin, with_kwargs=True)
    try:
        with replaced_processors(denoiser, processor):
            yield found
    finally:
        hook.remove()
    found.append(kept.mean())


class AttentionStore:
    """prompt-to-prompt: the probabilities of a step's layers, [n * heads, Q, K], and their sums over the steps."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._seen = 0
        self._steps = 0
        self._step: list[Tensor] = []
        self._total: list[Tensor] = []
        self._step_texts: list[bool] = []
        self._texts: list[bool] = []

    def __call__(self, probabilities: Tensor, is_text: bool) -> Tensor:
        half = len(probabilities) // 2
        # The tool's editing modes write the conditional half back; its storing mode writes it onto itself.
        probabilities[half:] = self._stored(probabilities[half:], is_text)
        self._seen += 1
        if self._seen == self._layers:
            self._end_step()
        return probabilities

    def _stored(self, conditional: Tensor, is_text: bool) -> Tensor:
        if conditional.shape[1] <= LARGEST:
            self._step.append(conditional)
            self._step_texts.append(is_text)
        return conditional

    def _end_step(self) -> None:
        self._seen = 0
        self._steps += 1
        if not self._total:
            self._total, self._texts = self._step, self._step_texts
        else:
            for total, maps in zip(self._total, self._step, strict=True):
                total += maps
        self._step, self._step_texts = [], []

    def mean(self, images: int) -> Tensor:
        """Of the first image, over heads and the text layers of one size: [height, width, tokens].

        The tool's notebooks ask for 16×16 of the down and up blocks; here it is the size of the first text layer.
        """
        averages = [total / self._steps for total in self._total]  # all of them, as the tool does
        texts = [maps for maps, is_text in zip(averages, self._texts, strict=True) if is_text]
        side = math.isqrt(texts[0].shape[1])
        chosen = [maps.reshape(images, -1, side, side, maps.shape[-1])[0] for maps in texts if maps.shape[1] == side**2]
        together = torch.cat(chosen)
        return (together.sum(0) / len(together)).cpu()


class StoringProcessor:
    """Any attention of a UNet."""

    def __init__(self, store: AttentionStore) -> None:
        self._store = store

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(source))
        value = attn.head_to_batch_dim(attn.to_v(source))
        scores = torch.einsum("b i d, b j d -> b i j", query, key) * attn.scale
        probabilities = self._store(scores.softmax(-1), encoder_hidden_states is not None)
        mixed = torch.einsum("b i j, b j d -> b i d", probabilities, value)
        return attn.to_out[0](attn.batch_to_head_dim(mixed))


@contextmanager
def prompt_to_prompt(pipe: DiffusionPipeline) -> Iterator[list[Tensor]]:
    """prompt-to-prompt's storing controller around a generation; the list has the first image's mean when it ends."""
    unet: UNet2DConditionModel = pipe.unet
    store = AttentionStore(sum(isinstance(module, Attention) for module in unet.modules()))
    found: list[Tensor] = []
    rows: list[int] = []

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows[:] = [len(args[0])]

    hook = unet.register_forward_pre_hook(count)
    try:
        with replaced_processors(unet, lambda name, module: StoringProcessor(store)):
            yield found
    finally:
        hook.remove()
    found.append(store.mean(rows[0] // 2))


@contextmanager
def maps_1_0(pipe: DiffusionPipeline) -> Iterator[list[object]]:
    """attention-map-diffusers 1.0 around a generation; the list has its maps when it ends."""
    found: list[object] = []
    with import_module("attention_map_diffusers").AttentionCapture(pipe) as capture:
        yield found
    found.append(capture.compute())
