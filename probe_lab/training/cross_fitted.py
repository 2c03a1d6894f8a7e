"""Validation predictions of a probe with a picture judge: in shares that other validation prompts decided."""

from __future__ import annotations

import torch
from torch import Tensor

from probe_lab.probes.heads import Blend
from probe_lab.probes.probe import Probe
from probe_lab.training.validated_batches import Validated

_PARTS = 2


@torch.no_grad()
def validation_predictions(probe: Probe, validated: Validated) -> Tensor:
    """Raw scores ``[n, E]`` that the probe predicts for the samples of ``validated``.

    The shares of ``Blend`` were fitted on all validation prompts: in these, a judge that knows nothing would look
    better than none on the same prompts. So prompts are parted in two by turns, and each part is blended in the shares
    that the other one decides; a single prompt in those of the probe.
    """
    if probe.blend is None:
        return probe.in_units(validated.prediction)
    target = probe.standardised(validated.scores)
    _, place = torch.unique(validated.prompt, return_inverse=True)
    blended = probe.blend(validated.prediction, validated.judged)
    for turn in range(_PARTS):
        inside = place % _PARTS == turn
        if not inside.any() or inside.all():
            continue
        blend = Blend(target.shape[1])
        blend.fit(*(rows[~inside] for rows in (validated.prediction, validated.judged, target, place)))
        blended[inside] = blend(validated.prediction[inside], validated.judged[inside])
    return probe.in_units(blended)
