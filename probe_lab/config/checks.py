"""Limits of an experiment that a type cannot state."""

from __future__ import annotations

from probe_lab.config.repeats import check_repeats
from probe_lab.config.schema import EXHIBITS, Experiment
from probe_lab.config.world import Prompts
from probe_lab.data.scalars import Scalar
from probe_lab.errors import ConfigError, nearest
from probe_lab.losses import parse_loss


def check(experiment: Experiment) -> None:
    """ConfigError for the first value that is out of its limits or does not fit another one."""
    sampling, probe, trainer, select = experiment.sampling, experiment.probe, experiment.trainer, experiment.select
    positive = {
        "prompts.count": experiment.prompts.count,
        "prompts.seeds": experiment.prompts.seeds,
        "sampling.steps": sampling.steps,
        "sampling.height": sampling.height,
        "sampling.width": sampling.width,
        "sampling.batch_size": sampling.batch_size,
        "cache.shard_size": experiment.cache.shard_size,
        "scoring.batch_size": experiment.scoring.batch_size,
        "data.batch_prompts": experiment.data.batch_prompts,
        "probe.width": probe.width,
        "probe.depth": probe.depth,
        "probe.embedding": probe.embedding,
        "probe.temperature": probe.temperature,
        "probe.nce_temperature": probe.nce_temperature,
        "trainer.max_epochs": trainer.max_epochs,
        "trainer.devices": trainer.devices,
        "trainer.learning_rate": trainer.learning_rate,
        "trainer.accumulate": trainer.accumulate,
        "engine.cpus": experiment.engine.cpus,
        "select.candidates": select.candidates,
        "select.keep": select.keep,
        "tradeoff.prompts": experiment.tradeoff.prompts,
        "tradeoff.timed_prompts": experiment.tradeoff.timed_prompts,
        "tradeoff.thin": experiment.tradeoff.thin,
        "workers": experiment.workers,
    }
    for key, value in positive.items():
        if not value > 0:  # NaN too
            raise ConfigError(f"'{key}' is {value}: it must be greater than 0")
    for key, step in [("capture.steps", s) for s in experiment.capture.steps] + [("probe.step", probe.step)]:
        if not 1 <= step <= sampling.steps:
            raise ConfigError(
                f"'{key}' names step {step}: steps are 1 to {sampling.steps} (sampling.steps), 1 is the first call"
            )
    for key, share in {
        "probe.ema": probe.ema,
        "probe.dropout": probe.dropout,
        "select.accept": select.accept,
        "tradeoff.thin": experiment.tradeoff.thin,
    }.items():
        if not 0 <= share < 1:
            raise ConfigError(f"'{key}' is {share}: it must be at least 0 and below 1")
    for key, amount in {
        "sampling.guidance": sampling.guidance,
        "sampling.max_sequence_length": sampling.max_sequence_length,
        "probe.margin": probe.margin,
        "probe.alignment": probe.alignment,
        "probe.oversample": probe.oversample,
        "trainer.gradient_clip": trainer.gradient_clip,
        "trainer.weight_decay": trainer.weight_decay,
        "trainer.patience": trainer.patience,
        "halving.first": experiment.halving.first,
        "select.budget": select.budget,
        "tradeoff.rounds": experiment.tradeoff.rounds,
        "tradeoff.fewer_steps": experiment.tradeoff.fewer_steps,
        "engine.gpus": experiment.engine.gpus,
        "data.num_workers": experiment.data.num_workers,
        "capture.tokens": experiment.capture.tokens,
        "capture.size": experiment.capture.size,
    }.items():
        if not amount >= 0:
            raise ConfigError(f"'{key}' is {amount}: it must not be negative")
    for key, side in {"sampling.height": sampling.height, "sampling.width": sampling.width}.items():
        if side % 8:
            raise ConfigError(f"'{key}' is {side}: diffusers pipelines draw sides that 8 divides")
    _check_devices(experiment)
    if trainer.strategy == "ddp" and trainer.devices == 1:
        raise ConfigError(
            "'trainer.strategy' is ddp and 'trainer.devices' is 1: set devices to 2 or more, or leave auto"
        )
    if experiment.halving.factor < 2:
        raise ConfigError(f"'halving.factor' is {experiment.halving.factor}: of 2 or more cells one goes on")
    if experiment.engine.address and experiment.engine.name != "ray":
        raise ConfigError(f"'engine.address' is '{experiment.engine.address}' and only engine.name=ray has one")
    if not experiment.evaluators:
        raise ConfigError("'evaluators' is empty: name at least one, shapes_reward for instance")
    for evaluator in probe.evaluators:
        if evaluator not in experiment.evaluators:
            raise ConfigError(f"'probe.evaluators' names '{evaluator}': {nearest(evaluator, experiment.evaluators)}")
    for scalar in probe.scalars:
        Scalar.parse(scalar)
    check_repeats(experiment)
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


def _check_devices(experiment: Experiment) -> None:
    trainer, engine = experiment.trainer, experiment.engine
    share, rest = divmod(experiment.data.batch_prompts, trainer.devices)
    if rest:
        raise ConfigError(
            f"'data.batch_prompts' is {experiment.data.batch_prompts} and 'trainer.devices' {trainer.devices}: every "
            "device takes the same share of a batch, so make it a multiple"
        )
    if trainer.devices > 1 and share < 2 and "infonce" in parse_loss(experiment.probe.loss):
        raise ConfigError(
            f"'data.batch_prompts' is {experiment.data.batch_prompts} for {trainer.devices} devices, and infonce "
            "compares the prompts of one device: give it at least 2 for each"
        )
    if engine.name == "ray" and trainer.accelerator == "gpu" and trainer.devices > max(engine.gpus, 1):
        raise ConfigError(
            f"'trainer.devices' is {trainer.devices} and a Ray worker reserves 'engine.gpus' {engine.gpus:g}: "
            f"set engine.gpus={trainer.devices}"
        )


def _check_prompts(prompts: Prompts) -> None:
    if prompts.source == "shapes" and prompts.path:
        raise ConfigError(
            f"'prompts.path' is '{prompts.path}' and prompts.source=shapes reads none: "
            "set prompts.source=file or hub, or empty it (prompts.path=)"
        )
    if prompts.source != "shapes" and not prompts.path:
        wanted = "a file of prompts" if prompts.source == "file" else "the id of a dataset, owner/name"
        raise ConfigError(f"'prompts.path' is empty: prompts.source={prompts.source} needs {wanted}")


def _check_tradeoff(experiment: Experiment) -> None:
    asked = experiment.tradeoff
    if not asked.candidates or min(asked.candidates) < 2:
        raise ConfigError(f"'tradeoff.candidates' is {asked.candidates}: name numbers of 2 or more")
