"""What the original packages need before they can be imported; loaded only where ``backend: reference`` runs one.

Each repair of another library lasts for the import, or the building of a model, alone.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import open_clip
import torch
import transformers.modeling_utils
import transformers.pytorch_utils
from torch import Tensor
from transformers import BertTokenizer, BlipVisionConfig

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def hpsv2_scoring() -> ModuleType:
    """``hpsv2.img_score`` of hpsv2 1.2.0, whose import fails as it is published.

    Its wheel lacks the vocabulary of its tokenizer: it is read from open_clip, which ships the same file. And it
    imports a name that it never uses from ``turtle``, which many builds of Python come without: it gets an empty one.
    """
    with _vocabulary_of_open_clip(), _empty_turtle():
        return import_module("hpsv2.img_score")


@contextmanager
def _vocabulary_of_open_clip() -> Iterator[None]:
    original = gzip.open
    ours = Path(open_clip.__file__).with_name(VOCABULARY)

    def redirected(file: Any, *arguments: Any, **options: Any) -> Any:
        missing = isinstance(file, str) and Path(file).name == VOCABULARY and not Path(file).exists()
        return original(ours if missing else file, *arguments, **options)

    gzip.open = redirected  # type: ignore[assignment]
    try:
        yield
    finally:
        gzip.open = original


@contextmanager
def _empty_turtle() -> Iterator[None]:
    original = sys.modules.get("turtle")
    empty = ModuleType("turtle")
    empty.forward = None  # type: ignore[attr-defined]
    sys.modules["turtle"] = empty
    try:
        yield
    finally:
        del sys.modules["turtle"]
        if original:
            sys.modules["turtle"] = original


MOVED = ("apply_chunking_to_forward", "find_pruneable_heads_and_indices", "prune_linear_layer")
"""What image-reward imports from ``transformers.modeling_utils``; the second is gone, and needed for training alone."""


def image_reward() -> ModuleType:
    """``ImageReward.ImageReward`` of image-reward 1.5, which was written for transformers 4.

    What its top module imports beside is passed over: training code and other scores, with ``datasets`` and the
    ``clip`` that its wheel does not ask for.
    """
    with _moved_names(), _without_init("ImageReward", "ImageReward.models"):
        found = import_module("ImageReward.ImageReward")
    bert = sys.modules["ImageReward.models.BLIP.med"].BertModel
    bert.all_tied_weights_keys = {}  # transformers 5 asks for it; nothing is tied
    bert.get_head_mask = lambda self, mask, layers: [None] * layers  # it left transformers; no head is masked
    bert.invert_attention_mask = _added_to_logits  # it left transformers as well
    return found


def _added_to_logits(model: Any, mask: Tensor) -> Tensor:
    return (1 - mask[:, None, None, :].to(model.dtype)) * torch.finfo(model.dtype).min


@contextmanager
def image_reward_of(vision: BlipVisionConfig, words: dict[str, int]) -> Iterator[None]:
    """Lets ``ImageReward`` be built with a vision tower of these sizes, and a vocabulary that is not downloaded."""

    class Tokenizer(BertTokenizer):
        @classmethod
        def from_pretrained(cls, _: str) -> BertTokenizer:
            return cls(vocab=words)

        @property
        def additional_special_tokens_ids(self) -> list[int]:  # what transformers 5 has another name for
            return [self.convert_tokens_to_ids("[ENC]")]

    def create_vit(*_: Any) -> tuple[Any, int]:
        tower = sys.modules["ImageReward.models.BLIP.vit"].VisionTransformer(
            img_size=vision.image_size,
            patch_size=vision.patch_size,
            embed_dim=vision.hidden_size,
            depth=vision.num_hidden_layers,
            num_heads=vision.num_attention_heads,
        )
        return tower, vision.hidden_size

    places = {"blip": ("BertTokenizer", Tokenizer), "blip_pretrain": ("create_vit", create_vit)}
    modules = {name: sys.modules[f"ImageReward.models.BLIP.{name}"] for name in places}
    before = {name: getattr(module, places[name][0]) for name, module in modules.items()}
    for name, (attribute, ours) in places.items():
        setattr(modules[name], attribute, ours)
    try:
        yield
    finally:
        for name, (attribute, _) in places.items():
            setattr(modules[name], attribute, before[name])


@contextmanager
def _moved_names() -> Iterator[None]:
    place = transformers.modeling_utils
    added = [name for name in MOVED if not hasattr(place, name)]
    for name in added:
        setattr(place, name, getattr(transformers.pytorch_utils, name, None))
    try:
        yield
    finally:
        for name in added:
            delattr(place, name)


@contextmanager
def _without_init(*packages: str) -> Iterator[None]:
    """Modules below ``packages`` can be imported without running what the packages themselves hold."""
    top = find_spec(packages[0])
    assert top
    assert top.origin
    added = [name for name in packages if name not in sys.modules]
    for name in added:
        bare = ModuleType(name)
        bare.__path__ = [str(Path(top.origin).parent.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = bare
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
