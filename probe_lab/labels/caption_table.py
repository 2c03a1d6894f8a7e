"""The captions under which the training pictures of a cache are scored: made once, and their text encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.backbones.truncation import token_limits, truncated
from probe_lab.cache import Cache
from probe_lab.cache.label_files import CAPTIONS, Captions, read_captions, write_captions
from probe_lab.cache.text_table import text_metadata, write_text
from probe_lab.capture.text_embeddings import encode_prompts
from probe_lab.config import BACKBONE, Experiment
from probe_lab.data.canonical import meaning
from probe_lab.data.splits import splits_of
from probe_lab.errors import CacheError, ConfigError
from probe_lab.evaluators import create
from probe_lab.evaluators.prompt_encoder import text_arrays
from probe_lab.generation.prompts import excluded_meanings
from probe_lab.labels.alteration import MADE_BY, Alteration, HeldOut, alter

_TOKENS = ("tokens", "token_mask")
"""Arrays of a text encoder that are as long as its longest prompt."""


def stored_captions(experiment: Experiment, cache: Cache) -> tuple[Captions, bool]:
    """The captions of the experiment's ``labels``, and whether they had to be made and stored.

    Raises:
        ConfigError: no training prompt, one that has too few other captions, or ``prompts.exclude`` names nothing.
        CacheError: they cannot be written.
    """
    prompts = cache.samples.drop_duplicates("prompt_id")
    trained = (splits_of(prompts, experiment.data.split) == "train").to_numpy()
    if not trained.any():
        raise ConfigError(
            f"the cache {cache.folder} has no training prompts to label (data.split: {experiment.data.split}): raise "
            "data.split.train"
        )
    held_out = {meaning(prompt) for prompt in prompts["prompt"][~trained]} | excluded_meanings(experiment.prompts)
    settings = _settings(experiment, held_out)
    try:
        stored = read_captions(cache.folder, cache.identity)
    except CacheError:  # none, or they are damaged
        stored = None
    if stored is not None and stored.settings == settings:
        return stored, False
    captions = Captions(_table(experiment, prompts[trained], held_out), settings)
    write_captions(cache.folder, captions, cache.identity)
    return captions, True


def _table(experiment: Experiment, prompts: pd.DataFrame, held_out: set[str]) -> pd.DataFrame:
    altered = alter(
        prompts["prompt"].tolist(),
        experiment.labels.captions,
        _alteration(experiment),
        HeldOut(held_out, experiment.data.split),
        seed=experiment.seed,
    )
    rows = [
        (prompt_id, caption, text, edit)
        for prompt_id, prompt in zip(prompts["prompt_id"].tolist(), prompts["prompt"], strict=True)
        for caption, (text, edit) in enumerate([(prompt, ""), *((other.text, other.edit) for other in altered[prompt])])
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "caption", "prompt", "edit"])


def _alteration(experiment: Experiment) -> Alteration:
    wanted = experiment.labels.alter
    if wanted != "auto":
        return wanted
    return "grammar" if experiment.prompts.source == "shapes" else "words and prompts"


def _settings(experiment: Experiment, held_out: set[str]) -> dict[str, str]:
    """All that decides the captions, beside the cache."""
    return {
        "captions": str(experiment.labels.captions),
        "alter": _alteration(experiment),
        "seed": str(experiment.seed),
        "split": str(experiment.data.split),
        "held_out_sha256": hashlib.sha256("\0".join(sorted(held_out)).encode()).hexdigest(),
        "made_by": MADE_BY,
    }


def encode_captions(experiment: Experiment, cache: Cache, captions: Captions, *, overwrite: bool = False) -> bool:
    """Write ``labels/text/<text.encoder>.safetensors`` unless it is there; whether it was written.

    Captions are encoded as the prompts of the cache are: tokens as many as there, and a prompt's own row is that of
    ``text/<text.encoder>.safetensors``.

    Raises:
        CacheError: the cache has no text of the encoder, or it cannot be written.
        CaptureError, ConfigError, ScoreError: the backbone, or the evaluator that encodes, cannot be loaded.
    """
    encoder = experiment.text.encoder
    backbone = {"backbone": f"{cache.manifest.backbone} {experiment.sampling.dtype}"}
    made_by = backbone if encoder == BACKBONE else create(encoder, experiment.scoring).metadata()
    metadata = made_by | {CAPTIONS: captions.sha256}
    stored = text_metadata(cache.folder, encoder, cache.identity, of_labels=True)
    if stored is not None and metadata.items() <= stored.items() and not overwrite:
        return False
    of_prompts = cache.text(encoder)
    altered = captions.table["caption"].to_numpy() > 0
    texts = captions.table["prompt"][altered].tolist()
    length = of_prompts["tokens"].shape[1] if "tokens" in of_prompts else 0
    if encoder == BACKBONE:
        encoded = _by_backbone(experiment, texts, length)
    else:
        encoded = text_arrays(encoder, experiment.scoring, texts)
    own = torch.tensor(captions.table["prompt_id"].to_numpy())
    tensors = {name: tensor[own] for name, tensor in of_prompts.items()}
    for name, tensor in tensors.items():
        tensor[torch.tensor(altered)] = _as_long(name, encoded[name], length).to(tensor.dtype)
    write_text(cache.folder, encoder, tensors, prompts=len(captions.table), metadata=metadata, of_labels=True)
    return True


def _by_backbone(experiment: Experiment, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """As ``generate`` encodes prompts."""
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    distinct = list(dict.fromkeys(texts))
    encoded = encode_prompts(pipe, experiment.sampling, distinct, length=length)
    encoded["truncated"] = torch.tensor(truncated(token_limits(pipe, experiment.sampling), distinct))
    place = {text: row for row, text in enumerate(distinct)}
    rows = torch.tensor([place[text] for text in texts])
    return {name: tensor[rows] for name, tensor in encoded.items()}


def _as_long(name: str, tensor: torch.Tensor, length: int) -> Tensor:
    """Tokens cut, or filled by padding, to the ``length`` of the prompts'."""
    if name not in _TOKENS:
        return tensor
    missing = length - tensor.shape[1]
    return F.pad(tensor, (0, 0, 0, missing) if tensor.dim() == 3 else (0, missing))
