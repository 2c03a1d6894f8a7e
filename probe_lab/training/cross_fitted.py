"""Validation predictions of a probe with a picture judge: in shares that other validation prompts decided."""

from __future__ import annotations

import torch
from torch import Tensor

from probe_lab.data import Batch, ProbeDataModule
from probe_lab.probes.heads import Blend
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.probe import Probe
from probe_lab.training.fitted import Predictor

_PARTS = 2


@torch.no_grad()
def cross_fitted(probe: Probe, data: ProbeDataModule) -> Predictor:
    """Raw scores ``[B, E]`` of validation batches.

    The shares of ``Blend`` were fitted on all validation prompts: in these, a judge that knows nothing would look
    better than none on the same prompts. So prompts are parted in two by turns, and each part is blended in the shares
    that the other one decides; a single prompt in those of the probe.
    """
    assert probe.blend is not None
    ids, predictions, judged, targets, groups = [], [], [], [], []
    for batch in data.evaluation_dataloader("val"):
        inputs = Inputs.of(batch)
        ids.append(batch.sample_id)
        predictions.append(probe(inputs).prediction)
        judged.append(probe.judged(inputs))
        targets.append(probe.standardised(batch.targets))
        groups.append(batch.group)
    prediction, answers, target = torch.cat(predictions), torch.cat(judged), torch.cat(targets)
    _, prompt = torch.unique(torch.cat(groups), return_inverse=True)
    blended = probe.blend(prediction, answers)
    for part in range(_PARTS):
        inside = prompt % _PARTS == part
        if not inside.any() or inside.all():
            continue
        blend = Blend(target.shape[1])
        blend.fit(prediction[~inside], answers[~inside], target[~inside], prompt[~inside])
        blended[inside] = blend(prediction[inside], answers[inside])
    return _lookup(torch.cat(ids), probe.in_units(blended))


def _lookup(ids: Tensor, scores: Tensor) -> Predictor:
    row_of = {sample: row for row, sample in enumerate(ids.tolist())}

    def predict(batch: Batch) -> Tensor:
        return scores[[row_of[sample] for sample in batch.sample_id.tolist()]]

    return predict
