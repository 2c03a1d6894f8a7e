"""Load the pipeline of a backbone the way an experiment asks for it."""

from __future__ import annotations

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from probe_lab.capture.backbones import located
from probe_lab.config import Backbone, Sampling, Scheduler
from probe_lab.errors import CaptureError

_SCHEDULERS: dict[Scheduler, str] = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
}


def load_pipeline(backbone: Backbone, sampling: Sampling) -> DiffusionPipeline:
    """The pipeline of a backbone, on its device, silent, with the scheduler that the experiment asks for.

    Raises:
        CaptureError: an unknown backbone or family, or nothing that can be loaded at the path.
    """
    family, path = located(backbone)
    # Loading takes a moment; two bars of the libraries' own would stand between ours.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        pipe = DiffusionPipeline.from_pretrained(path, dtype=getattr(torch, sampling.dtype), low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(
            f"no pipeline can be loaded from '{path}' (a diffusers folder or a hub id): {reason}"
        ) from error
    if type(pipe).__name__ not in family.pipelines:
        raise CaptureError(
            f"'{path}' holds a {type(pipe).__name__}, family '{family.name}' means {' or '.join(family.pipelines)}"
        )
    if sampling.scheduler != "default":
        pipe.scheduler = getattr(diffusers, _SCHEDULERS[sampling.scheduler]).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    try:
        return pipe.to(sampling.device)
    except (RuntimeError, AssertionError) as error:  # torch has both for a device that is not there
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(f"sampling.device '{sampling.device}' cannot be used: {reason}") from error
