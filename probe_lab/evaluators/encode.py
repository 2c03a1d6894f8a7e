"""``text.encoder``: the prompts of a cache as an evaluator encodes them, kept beside the scores."""

from __future__ import annotations

from pathlib import Path

from probe_lab.cache import Cache
from probe_lab.cache.layout import text_path
from probe_lab.cache.overwriting import overwriting
from probe_lab.cache.text_blocks import complete_text, in_blocks, rows_of
from probe_lab.config import BACKBONE, Scoring
from probe_lab.evaluators.base import create
from probe_lab.evaluators.prompt_encoder import text_tower


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
    prompts = cache.samples.drop_duplicates("prompt_id")["prompt"].tolist()
    encode = text_tower(encoder, scoring).text_arrays
    with overwriting(cache.folder, [text_path(cache.folder, encoder)], asked=overwrite):
        return complete_text(cache.folder, encoder, in_blocks(rows_of(prompts)), encode, metadata=metadata)
