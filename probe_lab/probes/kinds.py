"""Every model that ``probe.model`` names, as the answers of one ``ProbeKind`` each: probes and their baselines.

Nothing here imports a library: what trains or builds a probe is named and imported when it is used, so a sweep is laid
out and a report is drawn without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from probe_lab.cache.layout import TINY
from probe_lab.losses import Term, parse_loss
from probe_lab.registry import Registry, imported

if TYPE_CHECKING:
    from torch import nn

    from probe_lab.config import ProbeConfig
    from probe_lab.probes.spec import ProbeSpec
    from probe_lab.training.fitted import Fit

ATTENTION = "/attention"
BY_GRADIENT = "probe_lab.training.fit_probe:by_gradient"
BY_RIDGE = "probe_lab.training.baselines:by_ridge"


@dataclass(frozen=True)
class ProbeKind:
    """A model that experiments name: what it reads, how it is built and fitted, and what reports say of it.

    Attributes:
        label: what reports call it.
        encoder: makes, of a ``ProbeSpec``, the module that turns ``Inputs`` into ``[B, spec.embedding]``, or for
            ``BY_RIDGE`` into features ``[B, encoder.size]``; or ``module:attribute`` of it. Empty: nothing is built.
        fit: trains it on one cell, or ``module:attribute`` of what does: gives a ``Fitted`` or just a predictor, raw
            scores ``[B, E]`` of a batch.
        like: another model whose probes are built the same way, which ``probe.json`` then names.
        reads: the taps that it reads, whatever ``probe.taps`` says; or "taps", those; or "attention", the attention
            among them.
        text: whether it reads the prompt as ``probe.text`` and ``probe.head`` choose, always, or never.
        ranks: whether it can tell the samples of a prompt apart. One that cannot is trained with the squared error.
        reads_scalars: whether it reads ``probe.scalars``.
        keys: further keys that change its result, where ``fit`` is not ``BY_GRADIENT``: ``probe.within_prompt``.
        shuffled: whether it is trained on shuffled labels, ``probe.shuffles`` times.
        decodes: whether it asks the evaluators to score decoded latents, and ``preview`` which, as ``Scalar.latent``.
        is_baseline: whether it is something that probes are compared with.
        seconds: a rough guess per sample and epoch (per sample, where there are none) of one core, before any was
            trained.
        prominence: of baselines, those with the highest are drawn where there is room for a few.
        estimates: whether its predictions are of interest as scores, beside the order that they give.
    """

    label: str
    encoder: str | Callable[[ProbeSpec], nn.Module] = ""
    fit: str | Fit = BY_GRADIENT
    like: str = ""
    reads: Literal["taps", "attention"] | tuple[str, ...] = "taps"
    text: Literal["chosen", "always", "never"] = "never"
    ranks: bool = True
    reads_scalars: bool = False
    keys: tuple[str, ...] = ()
    shuffled: bool = False
    decodes: bool = False
    preview: str = "x0"
    is_baseline: bool = True
    seconds: float = 4e-4
    prominence: int = 0
    estimates: bool = False

    @property
    def by_gradient(self) -> bool:
        """Whether it is trained over epochs, with a loss and a training seed."""
        return self.fit == BY_GRADIENT

    @property
    def chooses_loss(self) -> bool:
        return self.by_gradient and self.ranks

    @property
    def on_steps(self) -> bool:
        """Whether one probe can be trained on several steps."""
        return self.by_gradient and self.ranks

    @property
    def is_quick(self) -> bool:
        """Whether fitting one takes next to no time, whatever the cache."""
        return not self.decodes and not (self.by_gradient and self.reads != ())

    def taps_of(self, taps: Iterable[str]) -> list[str]:
        """The taps that it reads where ``probe.taps`` are these."""
        if self.reads == "attention":
            return [tap for tap in taps if tap.endswith(ATTENTION)]
        return list(taps if self.reads == "taps" else self.reads)

    def terms(self, loss: str) -> tuple[Term, ...]:
        """What it is trained with where ``probe.loss`` is this; nothing without a training by gradient."""
        if not self.by_gradient:
            return ()
        return parse_loss(loss) if self.ranks else ("mse",)

    def build_encoder(self, spec: ProbeSpec) -> nn.Module:
        module: nn.Module = _called(self.encoder)(spec)
        return module

    @property
    def fitted_by(self) -> Fit:
        fit: Fit = _called(self.fit)
        return fit


def _called(named: str | Callable[..., Any]) -> Callable[..., Any]:
    return imported(named) if isinstance(named, str) else named


_CNN = ProbeKind(
    "probe (CNN)",
    encoder="probe_lab.probes.encoder:CNNEncoder",
    text="chosen",
    reads_scalars=True,
    is_baseline=False,
)
_DECODED = ProbeKind(
    "decoded x0 prediction",
    fit="probe_lab.training.baselines:by_preview",
    reads=("x0",),
    decodes=True,
    seconds=3e-3,
    prominence=5,
    estimates=True,
)
_CONTROL = replace(_CNN, like="cnn", reads_scalars=False, is_baseline=True)

MODELS = Registry(
    "probe model",
    ProbeKind,
    "models",
    {
        "cnn": _CNN,
        "prompt_only": ProbeKind(
            "prompt only",
            encoder="probe_lab.probes.features:PromptEncoder",
            reads=(),
            text="always",
            ranks=False,
            seconds=4e-5,
            prominence=2,
            estimates=True,
        ),
        "attention_entropy": ProbeKind(
            "attention entropy",
            encoder="probe_lab.probes.features:AttentionEntropy",
            fit=BY_RIDGE,
            reads="attention",
            keys=("probe.within_prompt",),
            seconds=1e-4,
            prominence=4,
        ),
        "linear": ProbeKind(
            "linear probe",
            encoder="probe_lab.probes.features:PooledFeatures",
            fit=BY_RIDGE,
            reads_scalars=True,
            keys=("probe.within_prompt",),
            seconds=3e-4,
            prominence=6,
            estimates=True,
        ),
        "noisy_latent": replace(_CONTROL, label="noisy latent", reads=("latent",), prominence=3),
        "x0_preview": _DECODED,
        "tiny_preview": replace(
            _DECODED, label="x0 prediction, tiny decoder", preview=TINY, seconds=1e-3, prominence=0
        ),
        "shipped": ProbeKind(
            "shipped probe",
            fit="probe_lab.training.as_shipped:by_shipped",
            text="always",
            seconds=2e-3,
            prominence=7,
            estimates=True,
        ),
        "shuffled_labels": replace(_CONTROL, label="shuffled labels", shuffled=True, prominence=1),
    },
)
"""Baselines are in the order of the reports' tables."""

PREVIEW = "preview"
_PREVIEW = ProbeKind("preview", fit="probe_lab.training.baselines:by_preview", reads=(), reads_scalars=True)
"""What ``preview_probe`` makes: it predicts its scalars. No experiment trains one."""


def register_probe(name: str, kind: ProbeKind) -> None:
    """Let experiments of this process name ``kind`` as their ``probe.model``.

    Workers that start afresh do not know the name: for them, name the kind as ``module:attribute`` instead.

    Raises:
        ConfigError: another kind has the name, or the name has a colon.
    """
    MODELS.register(name, kind)


def kind_of(model: str) -> ProbeKind:
    """What ``probe.model`` names. ConfigError for what names nothing."""
    return MODELS.get(model)


def built_as(kind: str) -> ProbeKind:
    """How a probe is built whose ``ProbeSpec.kind`` this is. ConfigError for what names nothing."""
    return _PREVIEW if kind == PREVIEW else MODELS.get(kind)


def is_buildable(kind: str) -> bool:
    """Whether ``built_as`` knows a kind that a file names, without importing a module for it."""
    return kind == PREVIEW or MODELS.loaded(kind) is not None


def recorded(model: str) -> ProbeKind:
    """What the model of a finished cell was. One that is not imported here counts as a probe, under its own name."""
    return MODELS.loaded(model) or replace(_CNN, label=model.replace("_", " "))


def baselines(models: Iterable[str] = ()) -> list[str]:
    """Our baselines in the order of tables, then those among ``models`` that are others."""
    return [model for model in dict.fromkeys((*MODELS.names(), *models)) if recorded(model).is_baseline]


def models_that(holds: Callable[[ProbeKind], bool]) -> list[str]:
    """The named models whose kind is such a one."""
    return [model for model in MODELS.names() if holds(kind_of(model))]


def reads_text(probe: ProbeConfig) -> bool:
    """Whether the prompts' text embeddings change what comes out."""
    kind = kind_of(probe.model)
    chosen = kind.text == "chosen" and (probe.text != "none" or probe.head == "text")
    return kind.text == "always" or chosen or probe.judge or "infonce" in kind.terms(probe.loss)
