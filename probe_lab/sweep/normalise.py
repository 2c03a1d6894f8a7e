"""Points of a grid with what cannot change their result taken out, so that equal results are equal cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from probe_lab.config import Experiment, Model, ProbeConfig
from probe_lab.losses import TERMS, Term, parse_loss

CLOSED_FORM: tuple[Model, ...] = ("linear", "attention_entropy", "x0_preview")
"""Models that are not trained by gradient."""
REGRESSIONS: tuple[Model, ...] = ("linear", "attention_entropy")
READ_SCALARS: tuple[Model, ...] = ("cnn", "linear")
TRAINED_ON_STEPS: tuple[Model, ...] = ("cnn", "noisy_latent", "shuffled_labels")
WITHOUT_LOSS: tuple[Model, ...] = (*CLOSED_FORM, "prompt_only")
"""Models for which no loss can be chosen."""
_TAPS: Mapping[Model, tuple[str, ...]] = {
    "noisy_latent": ("latent",),
    "x0_preview": ("x0",),
    "prompt_only": (),
}
READERS: Mapping[str, tuple[Term, ...]] = {
    "temperature": ("listwise", "spearman"),
    "margin": ("listwise",),
    "within_prompt": tuple(term for term in TERMS if term not in ("mse", "infonce")),
    "alignment": ("infonce",),
    "nce_temperature": ("infonce",),
    "nce_temperature_ratio": ("infonce",),
    "nce_negatives": ("infonce",),
    "correlation": ("pearson",),
}
"""Keys of ``probe`` that only some terms of a loss read."""


def normalised(point: Experiment, experiment: Experiment) -> Experiment:
    """The point with every key that its model and loss do not read set to one value.

    - ``noisy_latent`` reads the tap ``latent``, ``x0_preview`` the tap ``x0``, ``attention_entropy`` only
      attention taps, ``prompt_only`` none.
    - ``prompt_only`` sees nothing of any step, so it has the step of the experiment itself (the first
      captured one, if that was not captured), and always learns with ``mse``.
    - ``linear``, ``attention_entropy`` and ``x0_preview`` are not trained by gradient: beside model, step,
      taps and evaluators, their probe and trainer keys are those of the experiment itself. The first two read
      ``within_prompt`` too, whatever the loss.
    - Only ``cnn`` and ``linear`` have scalars, and only a ``cnn`` of arrays has several ``steps``, which are sorted, or
      a ``head`` that reads text. Only ``shuffled_labels`` has shuffles.
    - What no term of the loss reads (``READERS``) is that of the experiment itself: ``mse`` has no temperature.
    - What reads no text has the text encoder of the experiment itself.
    - Terms of a loss are in the order of ``losses.TERMS``.
    """
    probe, trainer = point.probe, point.trainer
    if probe.model in CLOSED_FORM:
        own, trainer = experiment.probe, experiment.trainer
        probe = dataclasses.replace(
            own,
            model=probe.model,
            step=probe.step,
            evaluators=probe.evaluators,
            taps=probe.taps,
            scalars=probe.scalars,
            steps=[],
            head="plain",
        )
    if probe.model not in READ_SCALARS:
        probe = dataclasses.replace(probe, scalars=[])
    if probe.model in _TAPS:
        probe = dataclasses.replace(probe, taps=list(_TAPS[probe.model]))
    if probe.model == "attention_entropy":
        probe = dataclasses.replace(probe, taps=[tap for tap in probe.taps if tap.endswith("/attention")])
    if probe.model == "prompt_only":
        captured = point.capture.steps
        step = experiment.probe.step if experiment.probe.step in captured or not captured else captured[0]
        probe = dataclasses.replace(probe, step=step, loss="mse", steps=[], head="plain")
    probe = dataclasses.replace(probe, steps=sorted(probe.steps) if len(probe.steps) > 1 else [])
    ranks = point.probe.within_prompt if probe.model in REGRESSIONS else None
    if probe.model != "shuffled_labels":
        probe = dataclasses.replace(probe, shuffles=experiment.probe.shuffles)
    probe = _read_by_loss(probe, experiment.probe)
    if ranks is not None:
        probe = dataclasses.replace(probe, within_prompt=ranks)
    text = point.text if probe.reads_text else experiment.text
    return dataclasses.replace(point, probe=probe, trainer=trainer, text=text)


def answers_of_loss(model: str, names_model: bool) -> bool:
    """Whether a test of cells sees the loss of this model: ``loss == "mse"`` asks of probes, not of their baselines.

    Baselines that are trained with a loss (noisy latent, shuffled labels) answer where the test ``names_model`` too.
    """
    return model == "cnn" or (names_model and model not in WITHOUT_LOSS)


def _read_by_loss(probe: ProbeConfig, own: ProbeConfig) -> ProbeConfig:
    terms = parse_loss(probe.loss)
    unread = {key: getattr(own, key) for key, readers in READERS.items() if not set(readers) & set(terms)}
    return dataclasses.replace(probe, loss="+".join(sorted(terms, key=TERMS.index)), **unread)
