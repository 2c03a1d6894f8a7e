"""Trained probes where they were not trained: at another step, on another tap, or in another cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.layout import PLACELESS
from probe_lab.data.scalar_table import scalar_table
from probe_lab.data.text_lookup import TextTable
from probe_lab.probes.encoder import resized
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ATTENTION, ProbeSpec

CHUNK_BYTES = 256 * 2**20
"""Arrays in memory at a time, whatever the size of the test split."""


@dataclass(frozen=True)
class ProbeReading:
    """One probe and what it is to read: ``reads`` maps each of its taps to a tap of the cache."""

    probe: Probe
    reads: Mapping[str, str]


def kind_of(tap: str) -> str:
    """ "attention", "activation", or "latent" (noisy, or predicted and clean: the channels are the same)."""
    return "latent" if tap in PLACELESS else tap.rpartition("/")[2]


def refusal(spec: ProbeSpec, cache: Cache, step: int, reads: Mapping[str, str]) -> str:
    """Why a probe of ``spec`` cannot be given these taps of this cache at this step; "" where it can.

    Channels must agree in number and in kind; height and width need not, see ``predict_at``. A step is told to
    a probe as a share of all steps, so caches of another number of steps are refused.
    """
    manifest = cache.manifest
    if step not in manifest.captured_steps:
        return f"step {step} was not captured"
    if manifest.steps != spec.total_steps:
        return f"{manifest.steps} sampling steps where the probe was trained on {spec.total_steps}"
    for tap, other in reads.items():
        if other not in manifest.taps:
            return "that cache has no such tap"
        if kind_of(tap) != kind_of(other):
            return "another kind of array"
        ours, theirs = spec.taps[tap][0], manifest.taps[other][0]
        if ours != theirs:
            return f"another number of {'tokens' if other.endswith(ATTENTION) else 'channels'} ({theirs}, not {ours})"
    lacking = [str(each) for each in spec.previews if each.evaluator not in cache.previewed(step, each.latent)]
    if lacking:
        return f"that cache has no {', '.join(lacking)} at step {step}"
    return _text_refusal(spec, cache)


def _text_refusal(spec: ProbeSpec, cache: Cache) -> str:
    if not _reads_text(spec):
        return ""
    if spec.text_encoder not in cache.text_encoders():
        return f"that cache has no text of {spec.text_encoder}"
    text = TextTable.load(cache, spec.text_encoder)
    given = [text.width(name) for name in ("embedding", "tokens")]
    wanted = [spec.text_dim if spec.needs_text else 0, spec.token_dim if spec.needs_tokens else 0]
    if any(want not in (0, have) for want, have in zip(wanted, given, strict=True)):
        return "another width of text embeddings"
    return ""


@torch.no_grad()
def predict_at(
    cache: Cache, step: int, jobs: Sequence[ProbeReading], samples: npt.NDArray[np.int64], *, told: int | None = None
) -> list[npt.NDArray[np.float32]]:
    """Scores ``[n, E]`` of every job for ``samples`` [n] (ids), each array being read once for all jobs.

    Probes are told the true step, or the one that is ``told``: in a cache of fewer sampling steps, that of their
    training at the same share of the steps. A tap of another height and width is resized as the encoder resizes taps to
    their common grid: averaged over areas when it shrinks, bilinearly when it grows.
    """
    taps = list(dict.fromkeys(tap for job in jobs for tap in job.reads.values()))
    encoders = {job.probe.spec.text_encoder for job in jobs if _reads_text(job.probe.spec)}
    text = {encoder: TextTable.load(cache, encoder) for encoder in encoders}
    found: list[list[Tensor]] = [[] for _ in jobs]
    for ids in _chunks(cache, taps, samples):
        arrays = {tap: read_samples(cache, f"{step}/{tap}", ids) for tap in taps}
        prompts = torch.from_numpy(cache.samples["prompt_id"].to_numpy()[ids])
        for job, parts in zip(jobs, found, strict=True):
            inputs = _inputs(job, arrays, told or step, prompts, text)
            if job.probe.spec.scalars:
                scalars = scalar_table(cache, step, job.probe.spec.scalars)
                inputs = replace(inputs, scalars=scalars[torch.from_numpy(ids)])
            parts.append(job.probe.predict(inputs))
    width = [len(job.probe.spec.evaluators) for job in jobs]
    return [torch.cat([torch.empty(0, w), *parts]).numpy() for w, parts in zip(width, found, strict=True)]


def read_samples(cache: Cache, key: str, samples: npt.NDArray[np.int64]) -> Tensor:
    """``[n, C, H, W]`` in the stored dtype; neighbouring rows are read as one, and no others."""
    where = cache.samples[["shard", "row"]].to_numpy()[samples]
    breaks = np.flatnonzero((np.diff(where[:, 0]) != 0) | (np.diff(where[:, 1]) != 1)) + 1
    runs = [run for run in np.split(where, breaks) if len(run)]
    parts = [cache.read(key, int(run[0, 0]), slice(int(run[0, 1]), int(run[-1, 1]) + 1)) for run in runs]
    return torch.cat(parts)


def _inputs(
    job: ProbeReading, arrays: Mapping[str, Tensor], step: int, prompts: Tensor, text: Mapping[str, TextTable]
) -> Inputs:
    spec = job.probe.spec
    features = {tap: resized(arrays[other].float(), spec.taps[tap][1:]) for tap, other in job.reads.items()}
    steps = torch.full((len(prompts),), step, dtype=torch.int64)
    if not _reads_text(spec):
        return Inputs(features, steps)
    distinct, prompt = torch.unique(prompts, return_inverse=True)
    return Inputs(features, steps, prompt, *text[spec.text_encoder].rows(distinct))


def _reads_text(spec: ProbeSpec) -> bool:
    """Aligned probes were trained with the text's token mask beside their arrays."""
    return spec.needs_text or spec.aligned


def _chunks(cache: Cache, taps: Sequence[str], samples: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    one = sum(math.prod(cache.manifest.taps[tap]) for tap in taps) * 4  # as float32
    size = max(1, min(512, CHUNK_BYTES // max(one, 1)))
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
