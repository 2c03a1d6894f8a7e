"""Validation predictions of a probe with a picture judge: in shares that other validation prompts decided."""

from __future__ import annotations

import torch
from torch import Tensor

from probe_lab.data import Batch, ProbeDataModule
from probe_lab.probes.heads import Blend
from probe_lab.probes.probe import Probe
from probe_lab.training.fitted import Predictor
from probe_lab.training.validated import Validated

_PARTS = 2


@torch.no_grad()
def cross_fitted(probe: Probe, data: ProbeDataModule) -> Predictor:
    """Raw scores ``[B, E]`` of validation batches.

    The shares of ``Blend`` were fitted on all validation prompts: in these, a judge that knows nothing would look
    better than none on the same prompts. So prompts are parted in two by turns, and each part is blended in the shares
    that the other one decides; a single prompt in those of the probe.
    """
    assert probe.blend is not None
    validated = Validated.of(probe, data.evaluation_dataloader("val"))
    _, place = torch.unique(validated.prompt, return_inverse=True)
    blended = probe.blend(validated.prediction, validated.judged)
    for turn in range(_PARTS):
        inside = place % _PARTS == turn
        if not inside.any() or inside.all():
            continue
        blend = Blend(validated.target.shape[1])
        blend.fit(*(rows[~inside] for rows in (validated.prediction, validated.judged, validated.target, place)))
        blended[inside] = blend(validated.prediction[inside], validated.judged[inside])
    return _lookup(validated.ids, probe.in_units(blended))


def _lookup(ids: Tensor, scores: Tensor) -> Predictor:
    row_of = {sample: row for row, sample in enumerate(ids.tolist())}

    def predict(batch: Batch) -> Tensor:
        return scores[[row_of[sample] for sample in batch.sample_id.tolist()]]

    return predict
