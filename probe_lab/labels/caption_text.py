"""The text of the captions of a cache, encoded as that of its prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial

import torch
from torch import Tensor

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache
from probe_lab.cache.label_files import CAPTIONS, Captions
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.cache.text_blocks import as_long, complete_text, in_blocks, rows_of
from probe_lab.capture.text_embeddings import stored_text
from probe_lab.config import BACKBONE, Experiment
from probe_lab.evaluators import create
from probe_lab.evaluators.prompt_encoder import text_tower
from probe_lab.progress import OnProgress


def encode_captions(experiment: Experiment, cache: Cache, captions: Captions, on_progress: OnProgress) -> bool:
    """Write ``labels/text/<text.encoder>.safetensors`` unless it is there; whether it was written.

    An interrupted call is continued by the same one. ``on_progress(done, total)`` counts distinct captions.

    Raises:
        CacheError: the cache has no text of the encoder, or it cannot be written.
        CaptureError, ConfigError, ScoreError: the backbone, or the evaluator that encodes, cannot be loaded.
    """
    encoder = experiment.text.encoder
    backbone = {"backbone": f"{cache.manifest.backbone} {experiment.sampling.dtype}"}
    made_by = backbone if encoder == BACKBONE else create(encoder, experiment.scoring).metadata()
    encode, texts = _CaptionEncoder(experiment, cache), rows_of(captions.table["prompt"])
    blocks = [
        *in_blocks({text: rows for text, rows in texts.items() if text in encode.prompt_of}),
        *in_blocks({text: rows for text, rows in texts.items() if text not in encode.prompt_of}),
    ]
    metadata = made_by | {CAPTIONS: captions.sha256}
    return complete_text(
        cache.folder, encoder, blocks, encode, metadata=metadata, of_labels=True, on_progress=on_progress
    )


class _CaptionEncoder:
    """Encodes captions as the prompts of the cache are, to tokens as many as there. What is a prompt's text,
    ``prompt_of`` says of which, is read from ``text/<text.encoder>.safetensors``."""

    def __init__(self, experiment: Experiment, cache: Cache) -> None:
        self._experiment, self._cache, self._encoder = experiment, cache, experiment.text.encoder
        prompts = cache.samples.drop_duplicates("prompt_id")
        self.prompt_of: dict[str, int] = dict(zip(prompts["prompt"], prompts["prompt_id"], strict=True))

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """The arrays of captions that all are prompts' texts, or none of which is."""
        stored = self._stored
        if texts[0] in self.prompt_of:
            rows = torch.tensor([self.prompt_of[text] for text in texts])
            return {name: stored.read(name, rows) for name in stored.names}
        encoded = self._encode(texts)
        return {name: as_long(name, encoded[name], stored.shape(name)).to(stored.dtype(name)) for name in stored.names}

    @cached_property
    def _stored(self) -> TensorRows:
        return self._cache.text_rows(self._encoder)

    @cached_property
    def _encode(self) -> Callable[[list[str]], Mapping[str, Tensor]]:
        experiment = self._experiment
        if self._encoder != BACKBONE:
            return text_tower(self._encoder, experiment.scoring).text_arrays
        pipe = load_pipeline(experiment.backbone, experiment.sampling)  # as ``generate`` encodes prompts
        length = self._stored.shape("tokens")[1] if "tokens" in self._stored.names else 0
        return partial(stored_text, pipe, experiment.sampling, length=length)
