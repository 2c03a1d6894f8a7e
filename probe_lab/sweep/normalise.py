"""Points of a grid with what cannot change their result taken out, so that equal results are equal cells."""

from __future__ import annotations

import dataclasses
import functools
from operator import attrgetter

from probe_lab.cache.layout import TINY
from probe_lab.config import Experiment, JudgeConfig, ProbeConfig, with_values
from probe_lab.config.schema import Trainer
from probe_lab.losses import LOSSES, TERMS, in_order, parse_loss
from probe_lab.probes.kinds import kind_of, reads_text, recorded

READ_BY_SOME = (*dict.fromkeys(key for term in TERMS for key in LOSSES.get(term).keys), "within_prompt")
"""Keys of ``probe`` that only some terms of a loss read."""


def normalised(point: Experiment, experiment: Experiment) -> Experiment:
    """The point with every key that its model and loss do not read set to one value.

    - Taps are those that the kind of the model reads of them (``ProbeKind.taps_of``).
    - What reads no tap sees nothing of any step, so it has the step of the experiment itself (the first captured one,
      if that was not captured); what cannot rank always learns with ``mse``.
    - Of a kind that is not trained by gradient, the probe and trainer keys beside model, step, taps and evaluators are
      those of the experiment itself, except those that it names (``ProbeKind.keys``), whatever the loss; with
      ``data.train_prompts``, or one of several judges, the training seed stays.
    - Scalars, several ``steps``, which are sorted, and shuffles are those of kinds that read them; only a probe that is
      trained on steps has a ``head`` that reads text.
    - What no term of the loss reads (``Loss.reads``) is that of the experiment itself: ``mse`` has no temperature.
    - What reads no judge has the ``judge`` section of the defaults; of one that does, ``judge.seeds`` counts.
    - What reads no text has the text encoder of the experiment itself; what decodes is trained on no prompts; what
      reads no tiny preview names no decoder of such.
    - Terms of a loss are in the order of ``losses.TERMS``.
    """
    own, kind = experiment.probe, kind_of(point.probe.model)
    if kind.decodes:
        point = dataclasses.replace(point, data=dataclasses.replace(point.data, train_prompts=0))
    probe, trainer = point.probe, point.trainer
    if not kind.by_gradient:
        named = {key: getattr(probe, key) for key in ("model", "step", "evaluators", "taps", "scalars", "judge")}
        probe, trainer = dataclasses.replace(own, **named), experiment.trainer
        if seeds_decide(point):
            trainer = dataclasses.replace(trainer, seed=point.trainer.seed)
    step, loss = probe.step, probe.loss
    if not kind.reads:
        captured = point.capture.steps
        step = own.step if own.step in captured or not captured else captured[0]
    if not kind.ranks:
        loss = "mse"
    probe = dataclasses.replace(
        probe,
        step=step,
        loss=loss,
        taps=kind.taps_of(probe.taps),
        scalars=probe.scalars if kind.reads_scalars else [],
        judge=probe.judge and kind.reads_scalars,
        steps=sorted(probe.steps) if kind.on_steps and len(probe.steps) > 1 else [],
        head=probe.head if kind.on_steps else "plain",
        shuffles=probe.shuffles if kind.shuffled else own.shuffles,
    )
    probe = _read_by_loss(probe, own)
    scoring = point.scoring
    if scoring.preview_decoder and kind.preview != TINY and not any(each.latent == TINY for each in probe.previews):
        scoring = dataclasses.replace(scoring, preview_decoder="")
    text = point.text if reads_text(probe) else experiment.text
    kept = {key: attrgetter(key)(point) for key in kind.keys}
    judge = point.judge if probe.judge else JudgeConfig()
    point = dataclasses.replace(point, probe=probe, trainer=trainer, text=text, scoring=scoring, judge=judge)
    return with_values(point, kept)


def seeds_decide(point: Experiment) -> bool:
    """Whether the training seed changes the result also of what is not trained by gradient: it chooses the training
    prompts, or the judge."""
    return bool(point.data.train_prompts) or (point.probe.judge and point.judge.seeds > 1)


def answers_of_loss(model: str, names_model: bool) -> bool:
    """Whether a test of cells sees the loss of this model: ``loss == "mse"`` asks of probes, not of their baselines.

    Baselines that are trained with a loss (noisy latent, shuffled labels) answer where the test ``names_model`` too.
    """
    kind = recorded(model)
    return not kind.is_baseline or (names_model and kind.chooses_loss)


def _read_by_loss(probe: ProbeConfig, own: ProbeConfig) -> ProbeConfig:
    terms = parse_loss(probe.loss)
    losses = [LOSSES.get(term) for term in terms]
    unread = {key: getattr(own, key) for key in READ_BY_SOME if not any(loss.reads(key) for loss in losses)}
    return dataclasses.replace(probe, loss="+".join(in_order(terms)), **unread)


@functools.cache
def unread_keys(model: str, loss: str) -> frozenset[str]:
    """The keys of ``probe``, ``trainer``, ``text`` and ``data.train_prompts`` that change no result of a model with a
    loss: those that ``normalised`` takes back where they are set."""
    default = Experiment()
    plain = dataclasses.replace(default, probe=dataclasses.replace(default.probe, model=model, loss=loss))
    unread = []
    for section, name in _SETTABLE:
        values = getattr(plain, section)
        changed = dataclasses.replace(values, **{name: _another(name, getattr(values, name))})
        point = normalised(dataclasses.replace(plain, **{section: changed}), plain)
        if getattr(getattr(point, section), name) == getattr(getattr(normalised(plain, plain), section), name):
            unread.append(f"{section}.{name}")
    return frozenset(unread)


_NAMED = ("model", "step", "taps", "evaluators")
"""Keys of ``probe`` that say which cell it is, whatever the model reads of them."""
_SETTABLE = [
    *(("probe", entry.name) for entry in dataclasses.fields(ProbeConfig) if entry.name not in _NAMED),
    *(("trainer", entry.name) for entry in dataclasses.fields(Trainer)),
    ("text", "encoder"),
    ("data", "train_prompts"),
]
_OTHER_WORDS = {"loss": ("mse", "listwise"), "head": ("text",), "text": ("none",), "nce_negatives": ("all",)}


def _another(name: str, value: object) -> object:
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "another"] if name != "steps" else [1, 2]
    return next((word for word in _OTHER_WORDS.get(name, ()) if word != value), f"{value}-another")
