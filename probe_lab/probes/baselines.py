"""What a probe has to beat, behind the interface of a probe: something that predicts a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.config import Experiment, Model
from probe_lab.data import Batch, ProbeDataModule, SplitFractions, prompt_groups
from probe_lab.data.scalars import stored_previews
from probe_lab.errors import ProbeError
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.probe import Probe
from probe_lab.probes.prompt_ridge import Penalties, fit_pooled_ridge, fit_prompt_ridge
from probe_lab.probes.spec import Kind, ProbeSpec
from probe_lab.probes.training import calibrated, prepared, train_batches

Preview = Callable[[Tensor, list[str], Sequence[str]], Tensor]
"""(x0 [n, C, h, w], prompts, evaluators) -> raw scores [n, E] of the decoded preview."""

KINDS: dict[Model, Kind] = {
    "cnn": "cnn",
    "noisy_latent": "cnn",
    "shuffled_labels": "cnn",
    "prompt_only": "prompt_only",
    "linear": "linear",
    "attention_entropy": "attention_entropy",
}
"""What is built for each model; ``x0_preview`` has no weights."""


_APART = 10_007
"""Between the seeds of two shuffles: the training seeds of a sweep shall not meet them."""


class Predictor(Protocol):
    """Raw scores ``[B, E]`` of a batch."""

    def __call__(self, batch: Batch) -> Tensor: ...


def closed_form(spec: ProbeSpec, data: ProbeDataModule) -> Probe:
    """``linear`` and ``attention_entropy``: the probe of ``tuned_ridge``."""
    return tuned_ridge(spec, data)[0]


def tuned_ridge(spec: ProbeSpec, data: ProbeDataModule, *, within_prompt: bool = True) -> tuple[Probe, list[Penalties]]:
    """``linear`` and ``attention_entropy``: ridge regression on the training split, and the penalties that validation
    chose for each evaluator.

    ``within_prompt``: for ranking the samples of a prompt, see ``fit_prompt_ridge``; else for all images alike, with
    the penalty of the smallest validation error. As after a ranking loss, predictions are calibrated on the validation
    split, see ``Probe.calibrate``.
    """
    probe = prepared(spec, data).eval()

    @torch.no_grad()
    def rows(batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in batches:
            yield probe.features(Inputs.of(batch)), probe.standardised(batch.targets), batch.group

    fit = fit_prompt_ridge if within_prompt else fit_pooled_ridge
    weight, bias, penalties = fit(
        lambda: rows(train_batches(data)),
        lambda: rows(data.val_dataloader()),
        int(probe.head.in_features),  # type: ignore[arg-type]
        len(spec.evaluators),
        len(spec.scalars),
    )
    probe.head.load_state_dict({"weight": weight.T.float(), "bias": bias.float()})
    calibrated(probe, data)
    return probe, penalties


def shuffled(cache: Cache, evaluators: Sequence[str], fractions: SplitFractions, seed: int) -> Tensor:
    """Labels ``[samples, E]`` with the rows of the training split permuted among each other, and those of
    validation.

    Validation too, because it chooses the epoch: true labels there would choose the weights that happen to be
    right. NaN in the test split.
    """
    groups = prompt_groups(cache, evaluators, fractions)
    labels = torch.full((len(cache.samples), len(evaluators)), torch.nan)
    generator = torch.Generator().manual_seed(seed)
    for split in (groups["train"], groups["val"]):
        order = torch.randperm(len(split.sample_id), generator=generator)
        labels[torch.from_numpy(split.sample_id)] = torch.from_numpy(split.targets)[order]
    return labels


def other_shuffles(experiment: Experiment) -> list[Experiment]:
    """What ``shuffled_labels`` trains beside the first: the same with other permutations and training seeds; nothing of
    another model."""
    if experiment.probe.model != "shuffled_labels":
        return []
    seeds = (experiment.trainer.seed + _APART * i for i in range(1, experiment.probe.shuffles))
    return [replace(experiment, trainer=replace(experiment.trainer, seed=seed)) for seed in seeds]


def previewed(cache: Cache, step: int, evaluators: Sequence[str], preview: Preview | None) -> Predictor:
    """The evaluators' scores of the decoded x₀ prediction: those in the cache, or else what ``preview`` says.

    Raises:
        ProbeError: they are not in the cache and no ``preview`` was given, so nothing can decode.
    """
    stored = stored_previews(cache, step, evaluators)
    if stored is not None:
        return lambda batch: stored[batch.sample_id.cpu()]
    if preview is None:
        raise ProbeError("x0_preview decodes latents and was given no preview: pass one to train_cell")
    prompts = cache.samples["prompt"]

    def predict(batch: Batch) -> Tensor:
        return preview(batch.features["x0"], prompts.iloc[batch.sample_id.tolist()].tolist(), evaluators)

    return predict
