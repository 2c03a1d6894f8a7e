"""What a kind of probe is given to fit one cell, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import Batch, ProbeDataModule
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.kinds import ProbeKind, kind_of
from probe_lab.probes.probe import Probe
from probe_lab.probes.prompt_ridge import Penalties
from probe_lab.probes.spec import ProbeSpec
from probe_lab.training.lightning_module import ContinueAfterEpoch, Epoch, Stop
from probe_lab.training.validated_batches import Validated

Preview = Callable[..., Tensor]
"""(x0 [n, C, h, w], prompts, evaluators) -> raw scores [n, E] of the decoded preview; with ``tiny=True`` where the kind
previews by the tiny decoder."""


class Predictor(Protocol):
    """Raw scores ``[B, E]`` of a batch."""

    def __call__(self, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Fitting:
    """One cell before its training. ``with_trainer``, ``progress`` and ``go_on`` are those of ``train_probe``;
    ``preview`` scores decoded latents, where the caller can."""

    experiment: Experiment
    cache: Cache
    data: ProbeDataModule
    preview: Preview | None = None
    with_trainer: bool = True
    progress: bool = False
    go_on: ContinueAfterEpoch | None = None

    @property
    def kind(self) -> ProbeKind:
        return kind_of(self.experiment.probe.model)

    @property
    def evaluators(self) -> list[str]:
        """Those to predict, in the order of the columns of ``targets`` and of predictions."""
        return self.experiment.probe_evaluators

    def spec(self) -> ProbeSpec:
        """The probe that the experiment describes, with the sizes that the data have.

        Raises:
            ProbeError: it cannot be built.
        """
        config, kind, manifest = self.experiment.probe, self.kind, self.cache.manifest
        batch = next(iter(self.data.val_dataloader()))
        shapes = {tap: manifest.taps[tap] for tap in kind.taps_of(config.taps)}
        tokens, token_dim = (0, 0) if batch.tokens is None else batch.tokens.shape[1:]
        return ProbeSpec(
            kind=kind.like or config.model,
            taps={tap: (shape[0], shape[1], shape[2]) for tap, shape in shapes.items()},
            evaluators=tuple(self.evaluators),
            step=config.step,
            total_steps=manifest.steps,
            text=config.text if kind.text == "chosen" else "none",
            text_dim=0 if batch.text is None else batch.text.shape[1],
            token_dim=int(token_dim),
            tokens=int(tokens),
            width=config.width,
            depth=config.depth,
            embedding=config.embedding,
            dropout=config.dropout,
            aligned="infonce" in kind.terms(config.loss),
            backbone=manifest.backbone,
            cache=manifest.name,
            text_encoder=self.experiment.text.encoder,
            scalars=tuple(config.scalars),
            head=config.head if kind.text == "chosen" else "plain",
            steps=tuple(config.steps) if kind.on_steps else (),
            judge=config.judge and kind.reads_scalars,
        )


@dataclass(frozen=True)
class Fitted:
    """A cell after training: ``probe`` is None where there are no weights to keep; ``residency`` is that of its
    arrays, empty: that of the data; ``penalties`` of a ridge regression, by evaluator; ``validated`` what calibration
    has read already of all validation samples at ``probe.step``."""

    predict: Predictor
    probe: Probe | None = None
    history: list[Epoch] = field(default_factory=list)
    stopped: Stop = ""
    residency: str = ""
    penalties: Sequence[Penalties] = ()
    validated: Validated | None = None

    @classmethod
    def of(cls, probe: Probe, history: Sequence[Epoch] = (), stopped: Stop = "") -> Fitted:
        """A trained probe, which predicts by itself."""
        return cls(lambda batch: probe.predict(Inputs.of(batch)), probe, list(history), stopped)


Fit = Callable[[Fitting], Fitted | Predictor]
