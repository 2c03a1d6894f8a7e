"""The plan of a published model whose weights are elsewhere: computed from its architecture, not measured."""

from __future__ import annotations

from collections.abc import Sequence

from probe_lab.backbones.architectures import Architecture, Weightless, absent
from probe_lab.backbones.families import located
from probe_lab.capture.capture import Capture
from probe_lab.config import Experiment
from probe_lab.errors import CaptureError, ConfigError
from probe_lab.flop_counter import OperationCounter
from probe_lab.generation.caption_sources import SOURCES
from probe_lab.generation.generate import plan_generation
from probe_lab.generation.measured_plan import ELEMENT_BYTES, Plan
from probe_lab.generation.prompts import read_prompts
from probe_lab.taps import Tap

TFLOPS = 400.0
"""What one card is taken to compute per second, in 10¹² operations: an H100 at 40 % of its dense bfloat16 peak."""

PNG_BYTES_PER_PIXEL = 1.5
"""Half of the raw picture: what photographs of this size take."""

FLOAT_BYTES = 4
"""The cache keeps text embeddings in float32."""


def planned(experiment: Experiment, tflops: float = TFLOPS) -> Plan:
    """What ``generate`` would take: measured where the weights are, else computed, and then its note says so.

    Raises:
        CaptureError: no such model, or a tap, a step or a setting that it refuses.
        ConfigError: prompts that cannot be read, or a rate that is not positive.
    """
    if not tflops > 0:
        raise ConfigError(f"--tflops is {tflops:g}: it must be greater than 0")
    architecture = absent(experiment.backbone)
    if architecture is None:
        return plan_generation(experiment)
    return dry_plan(experiment, architecture, tflops)


def dry_plan(experiment: Experiment, architecture: Architecture, tflops: float = TFLOPS) -> Plan:
    """Shapes from a real capture of tensors without numbers, time from counted operations at ``tflops`` per card.

    A prompt file need not be there: ``prompts.count`` stands for it. ``workers`` cards are taken to work side by side.

    Raises:
        CaptureError: a tap that the backbone lacks, or settings that its pipeline refuses.
        ConfigError: a prompt file that is there and cannot be read.
    """
    wanted, sampling, seeds = experiment.capture, experiment.sampling, experiment.prompts.seeds
    if not wanted.taps:
        raise CaptureError("'capture.taps' is empty: name at least one, x0 for instance")
    family, _ = located(experiment.backbone)
    model = Weightless(architecture, family)
    shapes = shapes_of(model, experiment, experiment.capture.taps)
    with OperationCounter() as counter:
        model.draw_one(sampling)
    flops = counter.total * (sampling.steps if wanted.images else max(wanted.steps))
    count = _prompts(experiment)
    tokens = wanted.tokens or architecture.text_tokens(sampling)
    embedding = architecture.pooled or architecture.text_width
    return Plan(
        images=count * seeds,
        steps=tuple(sorted(set(wanted.steps))),
        shapes=shapes,
        element_bytes=ELEMENT_BYTES[experiment.cache.dtype],
        image_bytes=int(sampling.height * sampling.width * PNG_BYTES_PER_PIXEL) if wanted.images else 0,
        seconds=flops * count * seeds / (tflops * 1e12) / experiment.workers,
        units=experiment.workers,
        hardware="GPU",
        text_bytes=count * (FLOAT_BYTES * (tokens * architecture.text_width + embedding) + tokens),  # and the mask
        note="Computed from the published architecture, not measured: the weights are not on this machine. The "
        f"denoiser takes {flops / 1e12:,.0f} TFLOP per image; {experiment.workers} cards (workers) make {tflops:g} "
        "TFLOP/s each. Text encoders and autoencoder come on top.",
    )


def shapes_of(model: Weightless, experiment: Experiment, taps: Sequence[Tap | str]) -> dict[str, tuple[int, ...]]:
    """[C, H, W] by tap, in the order of ``taps``, for the experiment's size, tokens and ``capture.size``."""
    wanted = experiment.capture
    taps = Capture(model.pipe, taps, [1]).taps
    # Where image and text are one sequence, all blocks attend over the same one: the first map speaks for all.
    same = [tap for tap in taps if tap.kind == "attention"] if model.is_joint else []
    read = [tap for tap in taps if tap not in same[1:]]
    with Capture(model.pipe, read, [1], tokens=wanted.tokens, size=wanted.size) as capture:
        model.draw_one(experiment.sampling)
    shapes = {tap: tuple(tensor.shape[1:]) for (_, tap), tensor in capture.items()}
    return {str(tap): shapes[same[0] if tap in same else tap] for tap in taps}


def _prompts(experiment: Experiment) -> int:
    prompts = experiment.prompts
    source = SOURCES.get(prompts.source)
    if source.is_here(prompts) and not source.is_endless:
        return len(read_prompts(prompts, experiment.seed))
    return prompts.count
