"""What a picture judge is trained on: pictures of training prompts at captured steps, under several captions each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from probe_lab.cache import Cache
from probe_lab.cache.layout import FINISHED, LabelsOf
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.config import JudgeConfig
from probe_lab.errors import ScoreError
from probe_lab.probes.picture_judge import QUESTIONS
from probe_lab.probes.spec import JUDGED
from probe_lab.training.renoised_pictures import RenoisedPictures


@dataclass(frozen=True, eq=False)
class JudgeBatch:
    """N pictures of G prompts, each under R captions of its prompt.

    ``clean`` is x₀ ``[N, C, H, W]`` float32, ``share`` the step as a share of all ``[N]``, ``tokens`` ``[N, R, L, D]``
    and ``mask`` ``[N, R, L]`` bool their text, ``labels`` ``[N, R, 2E]`` raw scores of what x₀ decodes to and of the
    finished picture, and ``group`` ``[N]`` int64 counts prompts from 0.
    """

    clean: Tensor
    share: Tensor
    tokens: Tensor
    mask: Tensor
    labels: Tensor
    group: Tensor


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """All labels of the pictures of a cache at some steps.

    ``ids`` int64 [n] are the samples, prompt by prompt, prompt g being ``start[g]:start[g + 1]``; ``first_caption`` [G]
    is the row of its own caption in ``text``, the altered ones follow. ``finished`` is float32 [n, captions, E], and
    ``previews`` the same of what the predictions of some of the ``steps`` decode to.
    """

    ids: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    first_caption: npt.NDArray[np.int64]
    text: TensorRows
    steps: list[int]
    finished: npt.NDArray[np.float32]
    previews: Mapping[int, npt.NDArray[np.float32]]

    @classmethod
    def read(
        cls, cache: Cache, evaluators: Sequence[str], steps: Sequence[int], encoder: str, *, previewed: Collection[int]
    ) -> LabelledPictures:
        """Those that the cache holds, of previews at the steps of ``previewed``.

        Raises:
            ScoreError: an evaluator has none at such a step or of the finished pictures, or not of the same pictures
                everywhere.
            CacheError: there are no captions, or the text of these is missing.
        """
        stored = cache.labels
        ids, _ = stored.scores(evaluators[0], FINISHED)

        def scored(of: LabelsOf) -> npt.NDArray[np.float32]:
            columns = [stored.scores(evaluator, of) for evaluator in evaluators]
            if any(not np.array_equal(ids, others) for others, _ in columns):
                raise ScoreError(
                    f"not all of {', '.join(evaluators)} have labelled the same pictures of {cache.folder} at steps "
                    f"{', '.join(map(str, previewed))} and when finished: run `probe-lab score` again, it resumes"
                )
            return np.stack([scores for _, scores in columns], axis=2)

        finished = scored(FINISHED)
        previews = {step: scored(step) for step in steps if step in previewed}
        prompts = cache.samples["prompt_id"].to_numpy()[ids]
        start = np.append(np.flatnonzero(np.diff(prompts, prepend=-1)), len(ids))
        captions = stored.captions
        rows = np.flatnonzero(captions["caption"].to_numpy() == 0)
        row_of = dict(zip(captions["prompt_id"].to_numpy()[rows].tolist(), rows.tolist(), strict=True))
        first = np.array([row_of[prompt] for prompt in prompts[start[:-1]].tolist()], np.int64)
        return cls(ids, start, first, stored.text_rows(encoder), list(steps), finished, previews)

    @property
    def width(self) -> int:
        """Captions of each prompt, its own included."""
        return int(self.finished.shape[1])

    def labels(self, step: int, rows: slice) -> npt.NDArray[np.float32]:
        """[rows, captions, 2E]: of what the predictions of a step decode to, NaN where these have none, and then of the
        finished pictures."""
        finished = self.finished[rows]
        previews = self.previews[step][rows] if step in self.previews else np.full_like(finished, np.nan)
        return np.concatenate([previews, finished], axis=2)


class _Prompt(NamedTuple):
    """All pictures of a prompt at a step: x₀ ``[n, C, H, W]``, the rows ``[R]`` of its captions' text, and the labels
    ``[n, R, 2E]``."""

    step: int
    clean: Tensor
    text: Tensor
    labels: Tensor


class JudgeBatches(IterableDataset[JudgeBatch]):
    """Batches of a training from number ``first`` on, each decided by its number and the seed alone.

    Where there are ``renoised`` pictures, ``judge.renoised`` is the share of prompts that are seen by those. They have
    the labels of the finished pictures, and none of what x₀ decodes to (NaN).
    """

    def __init__(
        self,
        cache: Cache,
        pictures: LabelledPictures,
        settings: JudgeConfig,
        *,
        seed: int,
        first: int,
        renoised: RenoisedPictures | None = None,
    ) -> None:
        self._cache, self._pictures, self._renoised = cache, pictures, renoised
        self._prompts = min(settings.prompts, len(pictures.start) - 1)
        self._captions = min(settings.captions, pictures.width)
        self._seed, self._first, self._last = seed, first, settings.batches
        self._share = settings.renoised
        if renoised is not None:
            renoised.require(pictures.ids)
        self._where = cache.samples[["shard", "row"]].to_numpy()[pictures.ids]

    def __len__(self) -> int:
        return self._last - self._first

    def __iter__(self) -> Iterator[JudgeBatch]:
        for number in range(self._first, self._last):
            yield self._batch(np.random.default_rng((self._seed, number)))

    def _batch(self, rng: np.random.Generator) -> JudgeBatch:
        pictures = self._pictures
        chosen = rng.choice(len(pictures.start) - 1, self._prompts, replace=False)
        prompts = [self._drawn(rng, int(prompt)) for prompt in chosen]
        size = torch.tensor([len(prompt.clean) for prompt in prompts])

        def spread(values: Tensor) -> Tensor:
            return values.repeat_interleave(size, dim=0)

        text = torch.stack([prompt.text for prompt in prompts])
        return JudgeBatch(
            clean=torch.cat([prompt.clean for prompt in prompts]),
            share=spread(torch.tensor([prompt.step / self._cache.manifest.steps for prompt in prompts])),
            tokens=spread(pictures.text.read("tokens", text).float()),
            mask=spread(pictures.text.read("token_mask", text).bool()),
            labels=torch.cat([prompt.labels for prompt in prompts]),
            group=spread(torch.arange(len(prompts))),
        )

    def _drawn(self, rng: np.random.Generator, prompt: int) -> _Prompt:
        """A prompt at a random step, under its own caption and random others."""
        pictures, steps = self._pictures, self._pictures.steps
        rows = slice(int(pictures.start[prompt]), int(pictures.start[prompt + 1]))
        step = steps[rng.integers(len(steps))]
        others = 1 + rng.permutation(pictures.width - 1)[: self._captions - 1]
        captions = np.concatenate([[0], np.sort(others)])
        text = torch.from_numpy(pictures.first_caption[prompt] + captions)
        labels = torch.from_numpy(pictures.labels(step, rows)[:, captions])
        if self._renoised is None or rng.random() >= self._share:
            return _Prompt(step, self._clean(step, rows), text, labels)
        step, clean = self._renoised.drawn(rng, pictures.ids[rows])
        labels[..., : labels.shape[-1] // QUESTIONS] = torch.nan  # of a preview that nobody decoded
        return _Prompt(step, clean, text, labels)

    def _clean(self, step: int, rows: slice) -> Tensor:
        """The samples of a prompt lie in one shard, one after the other, unless a picture between them is none."""
        where = self._where[rows]
        first, last = int(where[0, 1]), int(where[-1, 1])
        clean = self._cache.read(f"{step}/{JUDGED}", int(where[0, 0]), slice(first, last + 1))
        return clean[torch.from_numpy(where[:, 1] - first)].float()
