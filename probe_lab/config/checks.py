"""Limits of an experiment that a type cannot state."""

from __future__ import annotations

from typing import Any

from probe_lab.cache.layout import valid_name
from probe_lab.config.duplicates import check_repeats
from probe_lab.config.limits import require_ranges
from probe_lab.config.schema import EXHIBITS, Conditional, Experiment, ProbeConfig
from probe_lab.config.world_sections import Prompts
from probe_lab.data.scalars import Scalar
from probe_lab.errors import ConfigError, nearest
from probe_lab.losses import parse_loss
from probe_lab.registry import registry_of
from probe_lab.safe_names import problem_of

_MODEL, _ENGINE = "probe.model", "engine.name"


def check(experiment: Experiment) -> None:
    """ConfigError for the first value that is out of its limits or does not fit another one."""
    sampling, probe, select = experiment.sampling, experiment.probe, experiment.select
    require_ranges(experiment)
    _check_names(experiment)
    for step in experiment.capture.steps:
        _require_step("capture.steps", step, sampling.steps)
    for step in probe.steps:
        _require_step("probe.steps", step, sampling.steps)
    _check_labels(experiment)
    if probe.step != ProbeConfig().step:  # nobody wrote the default, and `generate` does without
        require_probe_step(experiment)
    for key, side in {"sampling.height": sampling.height, "sampling.width": sampling.width}.items():
        if side % 8:
            raise ConfigError(f"'{key}' is {side}: diffusers pipelines draw sides that 8 divides")
    _check_devices(experiment)
    require_named(_ENGINE, experiment.engine.name).check(experiment)
    if not experiment.evaluators:
        raise ConfigError("'evaluators' is empty: name at least one, shapes_reward for instance")
    for evaluator in probe.evaluators:
        if evaluator not in experiment.evaluators:
            raise ConfigError(f"'probe.evaluators' names '{evaluator}': {nearest(evaluator, experiment.evaluators)}")
    for scalar in probe.scalars:
        Scalar.parse(scalar)
    check_repeats(experiment)
    _check_steps(probe)
    _check_tradeoff(experiment)
    if select.keep > select.candidates:
        raise ConfigError(
            f"'select.keep' is {select.keep} and 'select.candidates' {select.candidates}: keep at most all of them"
        )
    for cut in select.schedule:
        if set(cut) != {"step", "keep"}:
            raise ConfigError(f"'select.schedule' has the cut {cut}: write {{step: STEP, keep: NUMBER}}")
    if select.schedule and select.budget:
        raise ConfigError(
            f"'select.schedule' and 'select.budget' ({select.budget}) both say when to choose: leave one of them out"
        )
    exhibit = experiment.paper.exhibit
    if exhibit and exhibit not in EXHIBITS:
        raise ConfigError(f"'paper.exhibit' is '{exhibit}': {nearest(exhibit, EXHIBITS)}")
    _check_prompts(experiment.prompts)
    if not (experiment.backbone.name or (experiment.backbone.family and experiment.backbone.path)):
        raise ConfigError("'backbone' is empty: name a built-in one, tiny-sd for instance, or {family: ..., path: ...}")
    parse_loss(probe.loss)
    for evaluator in experiment.evaluators:
        if ":" in evaluator:  # others may be scores that were imported
            require_named("evaluators", evaluator.partition("@")[0])
    require_named(_MODEL, probe.model)
    for section in experiment.report_sections:
        require_named("report_sections", section)


def check_axis_names(experiment: Experiment) -> None:
    """``require_named`` of the values of axes: what they name is imported by whoever reads the experiment, whether or
    not it lays out the sweep."""
    for grid in experiment.sweep:
        axis = grid.get(_MODEL, ())
        for model in axis.values if isinstance(axis, Conditional) else axis:
            require_named(_MODEL, str(model))


def require_named(key: str, name: str) -> Any:
    """The entry that a key names. ConfigError where its registry has none and can import none."""
    try:
        return registry_of(key).get(name)
    except ConfigError as error:
        raise ConfigError(f"'{key}' is not valid: {error}") from error


def require_probe_step(experiment: Experiment) -> None:
    """ConfigError where ``probe.step`` is none of the sampling's steps."""
    _require_step("probe.step", experiment.probe.step, experiment.sampling.steps)


def _require_step(key: str, step: int, steps: int) -> None:
    if not 1 <= step <= steps:
        raise ConfigError(f"'{key}' names step {step}: steps are 1 to {steps} (sampling.steps), 1 is the first call")


def _check_names(experiment: Experiment) -> None:
    """Names become folders and files."""
    for key, name in (("name", experiment.name), ("cache.name", experiment.cache.name)):
        if name and (problem := problem_of(name)):
            raise ConfigError(f"'{key}' is {name!r}, which is no name: {problem}")
    of_evaluators = {"evaluators": experiment.evaluators, "scoring.models": experiment.scoring.models}
    for key, listed in (of_evaluators | {"text.encoder": [experiment.text.encoder]}).items():
        for name in listed:
            if not valid_name(name):
                raise ConfigError(
                    f"'{key}' has {name!r}, which is no name: write letters, digits and _ . - (a@b: a label)"
                )


def _check_steps(probe: ProbeConfig) -> None:
    """Of a probe that is trained on several steps."""
    shown = f"'probe.steps' is [{', '.join(map(str, probe.steps))}]"
    if probe.steps and probe.step not in probe.steps:
        raise ConfigError(
            f"{shown} and 'probe.step' {probe.step}: a probe is evaluated at a step that it was trained on, so name "
            "it in probe.steps too, or choose one of these"
        )
    if len(probe.steps) > 1 and probe.scalars:
        raise ConfigError(
            f"{shown} and 'probe.scalars' [{', '.join(probe.scalars)}]: a probe of several steps reads no scalars, "
            "so empty one of the two"
        )
    if len(probe.steps) > 1 and probe.judge:
        raise ConfigError(
            f"{shown} and 'probe.judge' true: a probe of several steps reads no picture judge, so change one of the two"
        )


def _check_labels(experiment: Experiment) -> None:
    labels = experiment.labels
    for name, steps in {"labels.steps": labels.steps, "judge.steps": experiment.judge.steps}.items():
        for step in steps:
            _require_step(name, step, experiment.sampling.steps)
    if labels.captions and not (labels.steps or labels.images):
        raise ConfigError(
            f"'labels.captions' is {labels.captions}, and no pictures are named to score under them: name steps in "
            "labels.steps, or set labels.images=true"
        )
    if labels.captions and labels.images and not experiment.capture.images:
        raise ConfigError(
            "'labels.images' is true and 'capture.images' false: without finished images, set labels.images=false and "
            "name labels.steps"
        )
    if labels.renoised and not (labels.captions and labels.images and labels.steps):
        raise ConfigError(
            f"'labels.renoised' is {labels.renoised}, and what is noised again are finished images, at captured steps, "
            "whose scores are their labels: set labels.captions=8, labels.images=true and labels.steps"
        )


def _check_devices(experiment: Experiment) -> None:
    trainer = experiment.trainer
    if experiment.data.batch_prompts % trainer.devices:
        raise ConfigError(
            f"'data.batch_prompts' is {experiment.data.batch_prompts} and 'trainer.devices' {trainer.devices}: every "
            "device takes the same share of a batch, so make it a multiple"
        )


def _check_prompts(prompts: Prompts) -> None:
    require_named("prompts.source", prompts.source).check(prompts)


def _check_tradeoff(experiment: Experiment) -> None:
    asked = experiment.tradeoff
    if not asked.candidates or min(asked.candidates) < 2:
        raise ConfigError(f"'tradeoff.candidates' is {asked.candidates}: name numbers of 2 or more")
