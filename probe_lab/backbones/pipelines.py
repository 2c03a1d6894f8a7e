"""Load the pipeline of a backbone the way an experiment asks for it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import diffusers
import torch
import tqdm
import transformers
from diffusers import DiffusionPipeline

from probe_lab.backbones.families import located
from probe_lab.backbones.schedulers import is_flow
from probe_lab.config import Backbone, Sampling, Scheduler
from probe_lab.errors import CaptureError

_SCHEDULERS: dict[Scheduler, str] = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler",
    "lcm": "LCMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FOR_FLOWS: tuple[Scheduler, ...] = ("flow-euler", "dpm++", "unipc")
_FOR_NOISE: tuple[Scheduler, ...] = ("ddim", "dpm++", "euler", "euler-a", "lcm", "unipc")


def load_pipeline(backbone: Backbone, sampling: Sampling) -> DiffusionPipeline:
    """The pipeline of a backbone, on its device, silent, with the scheduler that the experiment asks for.

    Raises:
        CaptureError: an unknown backbone or family, nothing that can be loaded at the path, or an option of
            ``sampling`` that does not fit the pipeline or the device.
    """
    family, path = located(backbone)
    if sampling.offload != "none" and sampling.on_cpu:
        raise CaptureError(
            f"sampling.offload={sampling.offload} needs an accelerator to load from the CPU's memory, and "
            f"sampling.device is {sampling.device}: set it to cuda, or sampling.offload to none"
        )
    # Loading takes a moment; two bars of the libraries' own would stand between ours.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    tqdm.tqdm.monitor_interval = 0  # hidden bars start its thread too, beside which no worker process could be forked
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()  # what it would warn of, an offline hub, is in our sentence
    try:
        pipe = DiffusionPipeline.from_pretrained(path, dtype=getattr(torch, sampling.dtype))
    except (OSError, ValueError, ImportError) as error:  # an ImportError names a package that the model needs
        raise CaptureError(f"no pipeline can be loaded from '{path}': {_why_not(path, error)}") from error
    finally:
        diffusers.utils.logging.set_verbosity(level)
    if type(pipe).__name__ not in family.pipelines:
        raise CaptureError(
            f"'{path}' holds a {type(pipe).__name__}, family '{family.name}' means {' or '.join(family.pipelines)}"
        )
    pipe.set_progress_bar_config(disable=True)
    configure(pipe, sampling)
    return _placed(pipe, sampling)


def _why_not(path: str, error: Exception) -> str:
    if Path(path).exists() or isinstance(error, ImportError):
        return str(error).strip().splitlines()[0]
    if not _HUB_ID.fullmatch(path):
        return "there is no such folder, so correct backbone.path"
    return (
        "there is no such folder, and neither the hub's cache on this machine nor the hub gives a model of this id: "
        f"correct backbone.path, or fetch the model where there is a network (hf download {path})"
    )


def configure(pipe: DiffusionPipeline, sampling: Sampling) -> None:
    """Set scheduler, autoencoder and safety checker as ``sampling`` says.

    Raises:
        CaptureError: the pipeline has no such option, or its denoiser predicts what the scheduler cannot use.
    """
    require_length(pipe, sampling)
    if not sampling.safety_checker and getattr(pipe, "safety_checker", None) is not None:
        pipe.register_modules(safety_checker=None)
        pipe.register_to_config(requires_safety_checker=False)
    if sampling.scheduler != "default":
        pipe.scheduler = _scheduler(pipe, sampling.scheduler)
    for wanted, option in ((sampling.vae_tiling, "tiling"), (sampling.vae_slicing, "slicing")):
        if not wanted:
            continue
        try:
            getattr(pipe.vae, f"enable_{option}")()
        except (AttributeError, NotImplementedError) as error:
            raise CaptureError(
                f"sampling.vae_{option} is true, and the {type(pipe.vae).__name__} of a {type(pipe).__name__} has no "
                f"{option}: leave it false"
            ) from error


def require_length(pipe: DiffusionPipeline, sampling: Sampling) -> None:
    """Raise ``CaptureError`` for a limit of text tokens where the pipeline takes none."""
    if sampling.max_sequence_length and "max_sequence_length" not in inspect.signature(pipe.__call__).parameters:
        raise CaptureError(
            f"sampling.max_sequence_length is {sampling.max_sequence_length}, and a {type(pipe).__name__} has one "
            "length of text only: leave it at 0"
        )


def _scheduler(pipe: DiffusionPipeline, name: Scheduler) -> object:
    """A scheduler of that name which continues the settings of the pipeline's own."""
    own = pipe.scheduler
    allowed = _FOR_FLOWS if is_flow(own) else _FOR_NOISE
    if name not in allowed:
        what = "predicts a flow" if is_flow(own) else "does not predict a flow"
        raise CaptureError(
            f"sampling.scheduler={name} does not fit a {type(pipe).__name__}, which {what} (its own scheduler is "
            f"{type(own).__name__}): use default or one of {', '.join(sorted(allowed))}"
        )
    kind = getattr(diffusers, _SCHEDULERS[name])
    known = inspect.signature(kind.__init__).parameters
    # The library would print what the new one does not know; keys with an underscore are notes of its own.
    settings = {key: value for key, value in own.config.items() if key in known or key.startswith("_")}
    changes: dict[str, object] = {}
    if is_flow(own):
        # The two kinds of flow schedulers call the same number by different names.
        shift = own.config.get("flow_shift", own.config.get("shift", 1.0))
        changes = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
        if name == "flow-euler":
            changes = {"shift": shift}
    return kind.from_config(settings, **changes)


def _placed(pipe: DiffusionPipeline, sampling: Sampling) -> DiffusionPipeline:
    """The pipeline on its device, or ready to go there part by part."""
    try:
        torch.empty(0, device=sampling.device)  # an offload would meet a missing device only in the first call
        if sampling.offload == "model":
            pipe.enable_model_cpu_offload(device=sampling.device)
        elif sampling.offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=sampling.device)
        else:
            pipe.to(sampling.device)
    except (RuntimeError, AssertionError) as error:  # torch has both for a device that is not there
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(f"sampling.device '{sampling.device}' cannot be used: {reason}") from error
    return pipe
