"""Capture and probe beside one denoiser call of SDXL's UNet at full size: 2 567 M random weights, bfloat16.

A call is one row without guidance, the cheapest there is: with guidance the same capture stands beside twice the work.
Captured are the papers' taps, and the predicted clean latent for the probe's picture judge. Each round has a pipeline
call of one step without a capture, one with, and the probe's prediction from what that captured. Two figures come of
it, both over the time of the denoiser without a capture:

- `share`: seconds inside the capture's own code (its hooks, and its set-up and end), read off by a stopwatch around it,
  and of the probe;
- `by_difference`: the pipeline call with a capture less the one without, and the probe. It holds everything, but it is
  a small difference of two long calls, and their noise is larger than it.

`benchmarks/select_cost.py` is the command.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from benchmarks.backbones import Workload, random_sdxl
from benchmarks.random_probe import random_probe
from benchmarks.reading import summary
from benchmarks.stopwatch import Method, Stopwatch, timed
from probe_lab.capture import Capture
from probe_lab.capture.attention_maps import AttentionReader
from probe_lab.capture.call import PipelineCall
from probe_lab.capture.follow import Follower
from probe_lab.capture.readers import LayerReader
from probe_lab.capture.text_embeddings import encode_prompts
from probe_lab.config import Sampling
from probe_lab.probes import Inputs
from probe_lab.probes.spec import JUDGED
from probe_lab.shapes.captions import sample_captions

AT_MOST = 0.02
"""Capture and probe over the denoiser call."""
WIDTH, DEEP = (320, 640, 1280), 10
DENOISER: list[Method] = [(UNet2DConditionModel, "forward")]
CAPTURE: list[Method] = [
    (Capture, "__init__"),
    (Capture, "__enter__"),
    (Capture, "__exit__"),
    (Capture, "_keep_activation"),
    (PipelineCall, "begin"),
    (Capture, "_start"),
    (Follower, "_denoise"),
    (Follower, "_denoised"),
    (Capture, "_before_step"),
    (LayerReader, "_before"),
    (LayerReader, "_after"),
    (AttentionReader, "_called"),
]
"""Where a capture's code is entered from the pipeline."""


@dataclass(frozen=True)
class Round:
    """CPU seconds: of the denoiser without a capture, of the whole call without and with, inside the capture's code,
    and of the probe."""

    denoiser: float
    plain: float
    captured: float
    own: float
    probe: float

    @property
    def share(self) -> float:
        return (self.own + self.probe) / self.denoiser

    @property
    def by_difference(self) -> float:
        return (self.captured - self.plain + self.probe) / self.denoiser


def full_size() -> DiffusionPipeline:
    return random_sdxl(WIDTH, deep=DEEP, dtype=torch.bfloat16)


def plain_call(workload: Workload, pipe: DiffusionPipeline) -> tuple[float, float]:
    """CPU seconds of the call, and of the denoiser in it."""
    inside = Stopwatch()
    with inside.on(DENOISER):
        whole = timed(lambda: workload.run(pipe)).cpu
    return whole, inside.seconds


def captured_call(workload: Workload, pipe: DiffusionPipeline) -> tuple[float, float, dict[str, Tensor]]:
    """CPU seconds of the call with the papers' taps captured, those inside the capture's code, and the tensors."""
    inside = Stopwatch()
    captures: list[Capture] = []

    def run() -> None:
        with Capture(pipe, ["paper", JUDGED], [1]) as capture:
            workload.run(pipe)
        captures.append(capture)

    with inside.on(CAPTURE):
        whole = timed(run).cpu
    return whole, inside.seconds, {str(tap): tensor for (_, tap), tensor in captures[0].items()}


def inputs_of(features: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Inputs:
    """As a selection gives them to its probe: one sample."""
    return Inputs(
        features={tap: tensor.float() for tap, tensor in features.items()},
        step=torch.ones(1, dtype=torch.int64),
        prompt=torch.zeros(1, dtype=torch.int64),
        text=text["embedding"],
        tokens=text["tokens"],
        token_mask=text["token_mask"],
    )


def rounds_of(pipe: DiffusionPipeline, workload: Workload, count: int) -> tuple[list[Round], dict[str, list[int]]]:
    """The rounds, and the shapes of what was captured. Plain and captured calls take turns in going first."""
    side = workload.side
    text = encode_prompts(pipe, Sampling(guidance=workload.guidance, height=side, width=side), _prompt())
    *_, features = captured_call(workload, pipe)  # warm-up
    probe = random_probe(features, text, ["reward"])
    probe.predict(inputs_of(features, text))
    found: list[Round] = []
    for turn in range(count):
        print(f"SDXL at full size, round {turn + 1} of {count} …", flush=True)
        early = plain_call(workload, pipe) if turn % 2 == 0 else None
        captured, own, features = captured_call(workload, pipe)
        seconds = timed(lambda given=features: probe.predict(inputs_of(given, text))).cpu  # type: ignore[misc]
        plain, denoiser = early or plain_call(workload, pipe)
        found.append(Round(denoiser, plain, captured, own, seconds))
    return found, {tap: list(tensor.shape[1:]) for tap, tensor in features.items()}


def _prompt() -> list[str]:
    return list(islice(sample_captions(0), 1))


def measure_sdxl(rounds: int, latents: int) -> dict[str, object]:
    pipe = full_size()
    gc.collect()
    workload = Workload("sdxl-full", full_size, images=1, side=8 * latents, guidance=1.0, steps=1)
    found, taps = rounds_of(pipe, workload, rounds)
    return {
        "parameters": sum(part.numel() for part in pipe.unet.parameters()),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "latents": latents,
        "taps": taps,
    } | figures(found)


def figures(rounds: list[Round]) -> dict[str, object]:
    return {
        "at_most": AT_MOST,
        "share": summary([one.share for one in rounds]),
        "by_difference": summary([one.by_difference for one in rounds]),
        "rounds": [vars(one) for one in rounds],
    }


def sdxl_lines(result: Mapping[str, Any]) -> list[str]:
    """The table's part on the full-size UNet."""
    took = {name: statistics.median(one[name] for one in result["rounds"]) for name in ("denoiser", "own", "probe")}
    lines = [
        f"SDXL's UNet, {result['parameters'] / 1e6:.0f} M parameters, {result['dtype']}, {result['latents']}×"
        f"{result['latents']} latents, {len(result['taps'])} taps: denoiser {took['denoiser']:.2f} s, inside the "
        f"capture {took['own']:.4f} s, probe {took['probe']:.4f} s; asked ≤ {AT_MOST}"
    ]
    for name in ("share", "by_difference"):
        lines.append(f"{name:<16}" + "".join(f"{result[name][key]:>9.4f}" for key in ("min", "median", "max")))
    return lines
