"""When candidates are looked at, and how many go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe_lab.capture.backbones import BUILT_IN
from probe_lab.capture.family import Family
from probe_lab.errors import SelectError
from probe_lab.probes import Probe, load_probe


@dataclass(frozen=True)
class Cut:
    """After ``step`` denoiser calls, ``probe`` scores the candidates that are left; ``keep`` of each prompt go on."""

    step: int
    keep: int
    probe: Probe


def single_cut(probe: Probe, keep: int, step: int | None, ratio: float | None, steps: int) -> tuple[Cut, ...]:
    """One cut: at ``step`` (diffusers' ``cutoff_step_index``), at ``ratio`` of all steps, or where the probe was
    trained."""
    if step is not None and ratio is not None:
        raise SelectError(
            f"cutoff_step_index={step} and cutoff_step_ratio={ratio} both say when to choose: give one of them"
        )
    if ratio is not None:
        if not 0 < ratio < 1:
            raise SelectError(
                f"cutoff_step_ratio={ratio} is not allowed: give a share of the steps above 0 and below 1"
            )
        step = max(1, round(ratio * steps))
    return (Cut(probe.spec.step if step is None else step, keep, probe),)


def loaded(probe: Probe | Path | str) -> Probe:
    """A probe, or that of a trained cell's folder."""
    return probe if isinstance(probe, Probe) else load_probe(Path(probe))


def progressive(
    schedule: Sequence[Mapping[str, int]], probes: Sequence[Probe], candidates: int, keep: int
) -> tuple[Cut, ...]:
    """Several cuts, from ``[{step: 2, keep: 6}, …]`` and a probe for each of the steps.

    Raises:
        SelectError: steps that do not rise, numbers that do not fall, a last one that is not ``keep``, or a step
            without a probe.
    """
    by_step = {probe.spec.step: probe for probe in probes}
    cuts: list[Cut] = []
    left, last = candidates, 0
    for entry in schedule:
        if set(entry) != {"step", "keep"}:
            raise SelectError(f"a cut of the schedule is {dict(entry)}: write {{step: STEP, keep: NUMBER}}")
        step, number = entry["step"], entry["keep"]
        if step <= last or not 0 < number < left:
            raise SelectError(
                f"the schedule keeps {number} at step {step} after {left} were left at step {last}: steps have to rise "
                "and numbers to fall"
            )
        if step not in by_step:
            raise SelectError(
                f"no probe was trained at step {step} of the schedule: there are some of "
                f"{', '.join(map(str, sorted(by_step)))}"
            )
        cuts.append(Cut(step, number, by_step[step]))
        left, last = number, step
    if left != keep:
        raise SelectError(f"the schedule ends with {left} candidates and keep={keep}: let its last cut keep {keep}")
    return tuple(cuts)


def denoised(cuts: Sequence[Cut], candidates: int, steps: int) -> int:
    """Denoiser calls of one prompt, counted per image: Σ candidates left × steps made with them."""
    total, left, last = 0, candidates, 0
    for cut in cuts:
        total += left * (cut.step - last)
        left, last = cut.keep, cut.step
    return total + left * (steps - last)


def check_probe(cut: Cut, family: Family, steps: int) -> None:
    """SelectError for a probe that was trained on another kind of model, at another step or for another schedule."""
    spec = cut.probe.spec
    trained = family_name(spec.backbone)
    if trained not in ("", family.name):
        raise SelectError(
            f"the probe was trained on {spec.backbone} (family {trained}) and the pipeline is of the family "
            f"{family.name}: train one on this backbone"
        )
    if not 1 <= cut.step < steps:
        raise SelectError(f"candidates cannot be chosen after step {cut.step} of {steps}: choose before the last step")
    if cut.step / steps != spec.step / spec.total_steps:
        raise SelectError(
            f"the probe was trained at step {spec.step} of {spec.total_steps} and the candidates are chosen at step "
            f"{cut.step} of {steps}: choose at the same share of the steps, or train a probe there"
        )


def family_name(backbone: str) -> str:
    """Of the label that a manifest has: a built-in backbone, or ``family:path``; "" for one that is not known."""
    if backbone in BUILT_IN:
        return BUILT_IN[backbone][0].name
    return backbone.partition(":")[0] if ":" in backbone else ""
