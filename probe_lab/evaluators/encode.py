"""``text.encoder``: the prompts of a cache as an evaluator encodes them, kept beside the scores."""

from __future__ import annotations

from pathlib import Path

from probe_lab.cache import Cache
from probe_lab.cache.text_table import text_metadata, write_text
from probe_lab.config import BACKBONE, Scoring
from probe_lab.evaluators.base import create
from probe_lab.evaluators.prompt_encoder import text_arrays


def encode_texts(cache_folder: Path, encoder: str, scoring: Scoring, *, overwrite: bool = False) -> bool:
    """Write ``text/<encoder>.safetensors`` for all prompts of a cache, unless it is there; whether it was written.

    It is there when it was made by the same version and checkpoint. That of the backbone is `generate`'s.

    Raises:
        ConfigError: no such evaluator, or one that does not encode prompts.
        ScoreError: its checkpoint is missing or of another model.
        CacheError: there is no cache, or it cannot be written.
    """
    if encoder == BACKBONE:
        return False
    metadata = create(encoder, scoring).metadata()
    cache = Cache(cache_folder)
    stored = text_metadata(cache.folder, encoder, cache.identity)
    if stored is not None and metadata.items() <= stored.items() and not overwrite:
        return False
    prompts = cache.samples.drop_duplicates("prompt_id")["prompt"].tolist()
    tensors = text_arrays(encoder, scoring, prompts)
    write_text(cache.folder, encoder, tensors, prompts=len(prompts), metadata=metadata)
    return True
