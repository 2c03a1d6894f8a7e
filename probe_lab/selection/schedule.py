"""When candidates are looked at, and how many go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from probe_lab.backbones.families import BUILT_IN
from probe_lab.backbones.family import Family
from probe_lab.capture.text_embeddings import ENCODER
from probe_lab.errors import SelectError
from probe_lab.probes import Probe, ProbeSpec


@dataclass(frozen=True)
class Cut:
    """After ``step`` denoiser calls, ``probe`` scores the candidates that are left; ``keep`` of each prompt go on."""

    step: int
    keep: int
    probe: Probe
    told: int = 0
    """The step of its training that the probe is told, at the same share of the steps; set by ``placed``."""


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


def step_in(spec: ProbeSpec, steps: int) -> int | None:
    """The step of a call of ``steps`` at the share of the steps where the probe was evaluated; None where it is between
    two."""
    return _step_at(spec, spec.step, steps)


def step_told(spec: ProbeSpec, step: int, steps: int) -> int | None:
    """The step that the probe was trained on at the share of the steps of ``step`` of ``steps``; None where there is
    none."""
    return next((own for own in spec.trained_steps if own * steps == step * spec.total_steps), None)


def _step_at(spec: ProbeSpec, own: int, steps: int) -> int | None:
    whole, rest = divmod(own * steps, spec.total_steps)
    return None if rest else whole


def progressive(
    schedule: Sequence[Mapping[str, int]],
    probes: Sequence[Probe],
    candidates: int,
    keep: int,
    steps: int,
) -> tuple[Cut, ...]:
    """Several cuts in a call of ``steps``, from ``[{step: 2, keep: 6}, …]`` and a probe for each.

    Several may be at one step. Its probes then take turns, in the order given, but those that read previews or look
    ahead come last: what they read is costly, and made only of the candidates that the others left. Where a step has
    more probes than cuts, the first ones are not asked.

    Raises:
        SelectError: steps that fall, numbers that do not, a last one that is not ``keep``, or a step with fewer probes
            than cuts.
    """
    by_step: dict[int, list[Probe]] = {}
    for probe in sorted(probes, key=lambda probe: probe.spec.is_costly):
        if at := step_in(probe.spec, steps):
            by_step.setdefault(at, []).append(probe)
    for probe in probes:  # a probe of several steps serves those that no other was evaluated at
        spec = probe.spec
        for at in (_step_at(spec, own, steps) for own in spec.trained_steps):
            if at:
                by_step.setdefault(at, [probe])
    times = Counter(entry.get("step", 0) for entry in schedule)
    cuts: list[Cut] = []
    left, last = candidates, 0
    for entry in schedule:
        if set(entry) != {"step", "keep"}:
            raise SelectError(f"a cut of the schedule is {dict(entry)}: write {{step: STEP, keep: NUMBER}}")
        step, number = entry["step"], entry["keep"]
        if step < max(last, 1) or not 0 < number < left:
            raise SelectError(
                f"the schedule keeps {number} at step {step} after {left} were left at step {last}: numbers have to "
                "fall, and steps must not"
            )
        if step not in by_step:
            raise SelectError(
                f"no probe was trained at step {step} of {steps}, where the schedule cuts: there are some of "
                f"{', '.join(map(str, sorted(by_step))) or 'no step at all'}"
            )
        if len(by_step[step]) < times[step]:
            raise SelectError(
                f"the schedule has {times[step]} cuts at step {step}, where {len(by_step[step])} probe was trained: "
                "give one for each, the same one would choose the same twice"
            )
        cuts.append(Cut(step, number, by_step[step][-times[step]]))
        times[step] -= 1
        left, last = number, step
    if left != keep:
        raise SelectError(f"the schedule ends with {left} candidates and keep={keep}: let its last cut keep {keep}")
    return tuple(cuts)


def check_probe(probe: Probe, family: Family) -> None:
    """SelectError for a probe that was trained on another kind of model, or with another text encoder."""
    spec = probe.spec
    trained = family_name(spec.backbone)
    if trained not in ("", family.name):
        raise SelectError(
            f"the probe was trained on {spec.backbone} (family {trained}) and the pipeline is of the family "
            f"{family.name}: train one on this backbone"
        )
    if spec.needs_text and spec.text_encoder != ENCODER:
        raise SelectError(
            f"the probe reads the prompt as {spec.text_encoder} encodes it, and a selection has the backbone's own "
            "text encoder: train one with text.encoder=backbone, or probe.text=none"
        )


def placed(cut: Cut, steps: int) -> Cut:
    """The cut in a schedule of ``steps``, with the step that its probe is ``told``.

    SelectError for a cut at the end of the schedule, or at another place of it than where its probe was trained.
    """
    spec = cut.probe.spec
    if not 1 <= cut.step < steps:
        raise SelectError(f"candidates cannot be chosen after step {cut.step} of {steps}: choose before the last step")
    told = step_told(spec, cut.step, steps)
    if told is None:
        trained = f"step{'s' * (len(spec.trained_steps) > 1)} {', '.join(map(str, spec.trained_steps))}"
        raise SelectError(
            f"the probe was trained at {trained} of {spec.total_steps} and the candidates are chosen at step "
            f"{cut.step} of {steps}: choose at the same share of the steps, or train a probe there"
        )
    return replace(cut, told=told)


def family_name(backbone: str) -> str:
    """Of the label that a manifest has: a built-in backbone, or ``family:path``; "" for one that is not known."""
    if backbone in BUILT_IN:
        return BUILT_IN[backbone][0].name
    return backbone.partition(":")[0] if ":" in backbone else ""
