"""The taps of a backbone without its weights: what patterns stand for before anything is generated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import diffusers
import torch
from diffusers import DiffusionPipeline

from probe_lab.backbones.architectures import Weightless, absent
from probe_lab.backbones.families import located
from probe_lab.config import Backbone
from probe_lab.errors import CaptureError
from probe_lab.taps import Tap


def taps_of_backbone(backbone: Backbone, wanted: list[str]) -> list[Tap]:
    """The taps that ``wanted`` (taps, patterns, ``paper``) names, see ``Family.choose``; no weight is read.

    Raises:
        CaptureError: an unknown backbone, one that is neither here nor published, or a pattern without a match.
    """
    family, path = located(backbone)
    architecture = absent(backbone)
    if architecture is not None:
        return family.choose(Weightless(architecture, family).pipe, wanted)
    try:
        index = DiffusionPipeline.load_config(path, local_files_only=True)
        model = getattr(diffusers, index[family.denoiser][1])
        config = model.load_config(path, subfolder=family.denoiser, local_files_only=True)
    except (OSError, KeyError, AttributeError) as error:
        raise CaptureError(
            f"the taps of '{path}' are not known before its pipeline is here: write taps one by one, or run "
            "`probe-lab generate` first"
        ) from error
    with torch.device("meta"):
        denoiser = model.from_config(config)
    return family.choose(cast(DiffusionPipeline, SimpleNamespace(**{family.denoiser: denoiser})), wanted)
