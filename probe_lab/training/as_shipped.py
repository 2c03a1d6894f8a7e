"""A cell that trains nothing: it takes the probe that comes with the package."""

from __future__ import annotations

from pathlib import Path

from probe_lab.config import Experiment, load_experiment
from probe_lab.data.canonical import meaning
from probe_lab.data.splits import splits_of
from probe_lab.errors import ProbeError, nearest
from probe_lab.probes.applied_elsewhere import refusal
from probe_lab.probes.checkpoint import load_probe
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.shipped import CAPTIONS, shipped_probe, taught_by
from probe_lab.probes.spec import ProbeSpec
from probe_lab.runs.files import CONFIG
from probe_lab.training.fitted import Fitting, Predictor

_MADE_BY = {
    "sampling": ("steps", "guidance", "scheduler", "height", "width", "max_sequence_length"),
    "capture": ("normalize", "tokens", "size"),
}
"""Keys that decide what a probe reads of a picture."""


def by_shipped(fitting: Fitting) -> Predictor:
    """``shipped``: the probe that comes with the package for the backbone, as it is.

    Raises:
        ProbeError: there is none; it reads another step, other taps, text or pictures, or predicts other evaluators; or
            it was trained on validation or test prompts of the cell.
    """
    folder = shipped_probe(fitting.experiment.backbone.label)
    probe = load_probe(folder)
    _require_readable(probe.spec, fitting)
    _require_same_pictures(load_experiment(folder / CONFIG, stored=True), fitting.experiment)
    _require_unseen(folder, fitting)
    columns = [probe.spec.evaluators.index(evaluator) for evaluator in fitting.evaluators]
    return lambda batch: probe.predict(Inputs.of(batch))[:, columns]


def _require_readable(spec: ProbeSpec, fitting: Fitting) -> None:
    """ProbeError where a finished probe of ``spec`` does not read what the cell gives, or does not predict it all."""
    config, cache = fitting.experiment.probe, fitting.cache
    if config.step != spec.step:
        raise ProbeError(f"the shipped probe reads step {spec.step} and the cell step {config.step}: set probe.step")
    if set(config.taps) != set(spec.taps):
        raise ProbeError(f"the shipped probe reads other taps: set probe.taps=[{','.join(spec.taps)}]")
    for evaluator in fitting.evaluators:
        if evaluator not in spec.evaluators:
            raise ProbeError(
                f"the shipped probe does not predict '{evaluator}': {nearest(evaluator, spec.evaluators)}; set "
                "probe.evaluators"
            )
    encoder = fitting.experiment.text.encoder
    if encoder != spec.text_encoder:
        raise ProbeError(f"the shipped probe reads text of {spec.text_encoder}: set text.encoder={spec.text_encoder}")
    reason = refusal(spec, cache, spec.step, {tap: tap for tap in spec.taps})
    for tap, shape in spec.taps.items():
        if not reason and tuple(cache.manifest.taps[tap]) != tuple(shape):
            reason = f"{tap} is {list(cache.manifest.taps[tap])} there and was {list(shape)}"
    if reason:
        raise ProbeError(f"the shipped probe cannot read {cache.folder}, {reason}: train a probe of your own")


def _require_same_pictures(taught: Experiment, experiment: Experiment) -> None:
    """ProbeError where pictures are made, or arrays captured, otherwise than those that the probe was trained on."""
    for section, keys in _MADE_BY.items():
        for key in keys:
            before, now = (getattr(getattr(one, section), key) for one in (taught, experiment))
            if before != now:
                raise ProbeError(
                    f"the shipped probe was trained with {section}.{key}={before} and the cell has {now}: set it so, "
                    "or train a probe of your own"
                )


def _require_unseen(folder: Path, fitting: Fitting) -> None:
    """ProbeError where a finished probe knows prompts that the cell is chosen or judged by."""
    samples = fitting.cache.samples.drop_duplicates("prompt_id")
    held_out = samples["prompt"][splits_of(samples, fitting.experiment.data.split) != "train"]
    taught = sum(meaning(prompt) in taught_by(folder) for prompt in held_out)
    if taught:
        raise ProbeError(
            f"the shipped probe was trained on {taught} of the {len(held_out)} validation and test prompts: leave them "
            f"out by prompts.exclude=[{folder / CAPTIONS}]"
        )
