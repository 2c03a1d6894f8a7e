"""Pictures of some samples, decoded and scored under all captions of their prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from PIL.Image import Image

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache
from probe_lab.cache.layout import FINISHED, LabelsOf
from probe_lab.capture.no_pictures import finite_rows
from probe_lab.config import Experiment
from probe_lab.engines import Site
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator, create
from probe_lab.evaluators.base import Prepared, prepared, score_all_captions
from probe_lab.evaluators.decode import decoded, raw_images
from probe_lab.previews.decoding import as_images, decoded_pixels, decoded_together


@dataclass(frozen=True, eq=False)
class LabelTask:
    """Samples of whole prompts of one shard, whose pictures these evaluators have not labelled."""

    of: LabelsOf
    evaluators: tuple[str, ...]
    ids: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Scores float32 [n, evaluators, 1 + C] of a task, NaN for the samples whose image is broken."""

    scores: NDArray[np.float32]
    unreadable: list[int] = field(default_factory=list)


class LabelWorker:
    """Has its own decoder and evaluators, each from the first task on that needs it."""

    def __init__(self, experiment: Experiment, cache: Cache, site: Site) -> None:
        self._experiment, self._cache = experiment, cache
        self._made: dict[str, Evaluator] = {}
        table = cache.labels.captions
        self._captions = {int(str(prompt)): tuple(texts) for prompt, texts in table.groupby("prompt_id")["prompt"]}

    @cached_property
    def _pipe(self) -> DiffusionPipeline:
        # Decoded outside a pipeline call, where nothing would bring an offloaded autoencoder back.
        return load_pipeline(self._experiment.backbone, replace(self._experiment.sampling, offload="none"))

    def do(self, task: LabelTask) -> Labelled:
        """ScoreError for latents that decode to no picture."""
        evaluators = [self._evaluator(name) for name in task.evaluators]
        captions = [self._captions[prompt] for prompt in self._cache.samples["prompt_id"].to_numpy()[task.ids].tolist()]
        inputs: list[dict[str, Prepared] | None] = [
            None if image is None else prepared(evaluators, image) for image in self._pictures(task)
        ]
        there = [row for row, each in enumerate(inputs) if each is not None]
        scores = np.full((len(inputs), len(evaluators), len(captions[0])), np.nan, dtype=np.float32)
        if there:
            whole = [each for each in inputs if each is not None]
            scores[there] = score_all_captions(evaluators, whole, [captions[row] for row in there]).numpy()
        return Labelled(scores, [int(task.ids[row]) for row, each in enumerate(inputs) if each is None])

    def _evaluator(self, name: str) -> Evaluator:
        if name not in self._made:
            self._made[name] = create(name, self._experiment.scoring)
        return self._made[name]

    def _pictures(self, task: LabelTask) -> Iterator[Image | None]:
        """In the order of the samples; None for a broken image."""
        if task.of == FINISHED:
            for _, _, data in raw_images(self._cache, task.ids):
                yield decoded(data, self._cache.manifest.pixels)
            return
        rows = self._cache.samples.iloc[task.ids]
        places = rows["row"].to_numpy()
        first, last = int(places.min()), int(places.max())
        x0 = self._cache.read(f"{task.of}/x0", int(rows["shard"].iloc[0]), slice(first, last + 1))
        x0 = x0[torch.from_numpy(places - first)].float()
        for part in decoded_together(x0):
            pixels = decoded_pixels(self._pipe, x0[part])
            broken = np.flatnonzero(~finite_rows(pixels).cpu().numpy())
            if len(broken):
                raise ScoreError(
                    f"the preview of sample {task.ids[part][broken[0]]} at step {task.of} decodes to NaN or infinity: "
                    "decode with sampling.dtype=float32 or bfloat16"
                )
            yield from as_images(self._pipe, pixels)
