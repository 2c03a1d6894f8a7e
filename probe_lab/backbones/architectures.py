"""Published models without their weights: the stock pipeline around a denoiser that has shapes and no numbers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import yaml
from diffusers import DiffusionPipeline
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from probe_lab.backbones.families import located
from probe_lab.backbones.family import Family
from probe_lab.backbones.pipelines import require_length
from probe_lab.config import Backbone, Sampling
from probe_lab.errors import CaptureError

_META = torch.device("meta")
PUBLISHED = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Architecture:
    """A published model; ``architectures.yaml`` says what the fields mean."""

    pipeline: str
    denoiser: str
    scheduler: str
    parameters: float
    config: Mapping[str, Any]
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    clip_tokens: int = 0
    further_tokens: int = 0
    padded: bool = True
    pooled: int = 0

    @property
    def text_width(self) -> int:
        """Channels of a text token."""
        width: int = self.config.get("joint_attention_dim") or self.config["cross_attention_dim"]
        return width

    def text_tokens(self, sampling: Sampling) -> int:
        """Text tokens that the denoiser reads."""
        limit = sampling.max_sequence_length
        if not limit or not self.further_tokens:
            return self.clip_tokens + self.further_tokens
        return self.clip_tokens + (limit if self.padded else min(limit, self.further_tokens))


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """The published models by hub id."""
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return {hub_id: Architecture(**entry) for hub_id, entry in content.items()}


def absent(backbone: Backbone) -> Architecture | None:
    """The architecture of a published model whose weights are not on this machine; None when there is one to load.

    Raises:
        CaptureError: an unknown backbone or family, or a family that the model does not belong to.
    """
    family, path = located(backbone)
    published = architectures().get(path)
    if published is None or Path(path).exists() or _is_downloaded(path, family):
        return None
    if published.pipeline not in family.pipelines:
        raise CaptureError(
            f"'{path}' holds a {published.pipeline}, family '{family.name}' means {' or '.join(family.pipelines)}"
        )
    return published


def _is_downloaded(hub_id: str, family: Family) -> bool:
    """Whether the local hub cache has the denoiser's weights; the index alone would lead to a download."""
    index = try_to_load_from_cache(hub_id, "model_index.json")
    return isinstance(index, str) and any((Path(index).parent / family.denoiser).glob("*.safetensors"))


class Weightless:
    """A pipeline of an architecture whose weights and text are tensors of the device meta: they have shapes and take no
    memory.

    What runs on them is the stock code, so that all it gives has the shapes of the real model's.
    """

    def __init__(self, architecture: Architecture, family: Family) -> None:
        self._architecture = architecture
        self._family = family
        with _META:
            self.denoiser = getattr(diffusers, architecture.denoiser)(**architecture.config)
        self.denoiser.eval().requires_grad_(False)
        scheduler = getattr(diffusers, architecture.scheduler)(**architecture.scheduler_config)
        parts = {family.denoiser: self.denoiser, "scheduler": scheduler}
        self.pipe = _assembled(getattr(diffusers, architecture.pipeline), parts)

    @property
    def is_joint(self) -> bool:
        """Whether image and text are one sequence to its attention."""
        return self._family.order != "cross"

    def draw_one(self, sampling: Sampling) -> None:
        """One image in one step, up to its latent.

        Raises:
            CaptureError: a token limit for a pipeline that has none.
        """
        require_length(self.pipe, sampling)
        options = self._family.call_options(sampling, [""])
        for text in ("prompt", "negative_prompt"):
            options.pop(text, None)
        with _NumbersAreLost():
            self.pipe(**options | self._text(sampling) | {"num_inference_steps": 1, "output_type": "latent"})

    def _text(self, sampling: Sampling) -> dict[str, Tensor]:
        """Text embeddings under the names by which the pipeline takes them."""
        tokens = self._architecture.text_tokens(sampling)
        given = {"prompt_embeds": torch.empty(1, tokens, self._architecture.text_width, device=_META)}
        if self._architecture.pooled:
            given["pooled_prompt_embeds"] = torch.empty(1, self._architecture.pooled, device=_META)
        given["prompt_embeds_mask"] = torch.ones(1, tokens, dtype=torch.bool)
        taken = inspect.signature(self.pipe.__call__).parameters
        both = given | {f"negative_{name}": tensor for name, tensor in given.items()}
        return {name: tensor for name, tensor in both.items() if name in taken}


class _NumbersAreLost(TorchFunctionMode):
    """What is computed from tensors with numbers and tensors without has none, and is not brought back to a device that
    would have them. So positions and timesteps meet the weights, once the pipeline has computed with their values."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        have = {tensor.is_meta for tensor in _tensors((*args, *named.values()))}
        if True not in have:
            return function(*args, **named)
        name = function.__name__
        if name == "cpu":
            return args[0]
        if False in have:
            args, named = tree_map_only(Tensor, lambda tensor: tensor.to(_META), (args, named))
        if name == "linear":
            args, named = args[:2], {}  # the bias, which changes no shape, would be half of its time
        if name == "to":
            args, named = tree_map_only((torch.device, str), lambda device: _META, (args, named))
        return _shapes_alone(name, args) if name in _MOST else function(*args, **named)


_MOST = ("layer_norm", "gelu", "silu", "add", "mul")
"""Most of a denoiser's operations, each of which takes PyTorch a millisecond without numbers too."""


def _shapes_alone(name: str, args: tuple[Any, ...]) -> Tensor:
    """What an operation of ``_MOST`` gives."""
    if name not in ("add", "mul"):
        return torch.empty_like(args[0])
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in _tensors(args)))
    return torch.empty(shape, dtype=torch.result_type(*args[:2]), device=_META)


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """Those of a call, which may be in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _assembled(pipeline: type[DiffusionPipeline], parts: Mapping[str, object]) -> DiffusionPipeline:
    """A silent pipeline of those parts, without text encoders and autoencoder, whose own tensors have numbers."""
    named = inspect.signature(pipeline.__init__).parameters
    given: dict[str, object] = {
        name: None for name, one in named.items() if name != "self" and one.default is inspect.Parameter.empty
    }
    if "requires_safety_checker" in named:
        given["requires_safety_checker"] = False
    device = torch.device("cpu")
    pipe = type(pipeline.__name__, (pipeline,), {"device": device, "_execution_device": device})(**given | dict(parts))
    pipe.set_progress_bar_config(disable=True)
    return pipe
