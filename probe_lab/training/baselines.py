"""How baselines are fitted that are not trained by gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from probe_lab.cache.layout import TINY
from probe_lab.data import Batch, ProbeDataModule
from probe_lab.data.scalar_table import stored_previews
from probe_lab.errors import ProbeError
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.prompt_ridge import fit_pooled_ridge, fit_prompt_ridge
from probe_lab.probes.spec import ProbeSpec
from probe_lab.training.fit_probe import calibrated, prepared, train_batches
from probe_lab.training.fitted import Fitted, Fitting, Predictor
from probe_lab.training.judge_scores import judge_weights


def by_ridge(fitting: Fitting) -> Fitted:
    """``linear`` and ``attention_entropy``: the probe of ``tuned_ridge``."""
    spec, within_prompt = fitting.spec(), fitting.experiment.probe.within_prompt
    judge = judge_weights(fitting.experiment, fitting.cache) if spec.judge else None
    return tuned_ridge(spec, fitting.data, within_prompt=within_prompt, judge=judge)


def tuned_ridge(
    spec: ProbeSpec,
    data: ProbeDataModule,
    *,
    within_prompt: bool = True,
    judge: Mapping[str, Tensor] | None = None,
) -> Fitted:
    """Ridge regression of an encoder's features on the training split, with penalties that validation chose.

    ``within_prompt``: for ranking the samples of a prompt, see ``fit_prompt_ridge``; else for all images alike, with
    the penalty of the smallest validation error. As after a ranking loss, predictions are calibrated on the validation
    split, see ``Probe.calibrate``.
    """
    probe = prepared(spec, data, judge).eval()

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
        spec.numbers,
    )
    probe.head.load_state_dict({"weight": weight.T.float(), "bias": bias.float()})
    return replace(Fitted.of(probe), penalties=penalties, validated=calibrated(probe, data))


def by_preview(fitting: Fitting) -> Predictor:
    """``x0_preview`` and ``tiny_preview``: the evaluators' scores of the decoded x₀ prediction, those in the cache, or
    else of ``preview``.

    Raises:
        ProbeError: they are not in the cache and no ``preview`` was given, so nothing can decode.
    """
    cache, preview, evaluators, latent = fitting.cache, fitting.preview, fitting.evaluators, fitting.kind.preview
    stored = stored_previews(cache, fitting.experiment.probe.step, evaluators, latent)
    if stored is not None:
        return lambda batch: stored[batch.sample_id.cpu()]
    if preview is None:
        raise ProbeError(
            f"{fitting.experiment.probe.model} decodes latents and was given no preview: pass one to train_cell"
        )
    prompts = cache.samples["prompt"]

    def predict(batch: Batch) -> Tensor:
        texts = prompts.iloc[batch.sample_id.tolist()].tolist()
        if latent == TINY:
            return preview(batch.features["x0"], texts, evaluators, tiny=True)
        return preview(batch.features["x0"], texts, evaluators)

    return predict
