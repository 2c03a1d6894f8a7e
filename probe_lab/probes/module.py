"""Training of a probe as a LightningModule: objective, average of weights, choice of the best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, TypedDict, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric, MeanSquaredError

from probe_lab.config import Trainer
from probe_lab.data import Batch
from probe_lab.metrics import SelectionGain, WithinPromptSpearman
from probe_lab.probes.augment import randomly_shifted
from probe_lab.probes.encoder import CNNEncoder
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.objective import Objective
from probe_lab.probes.probe import Probe

Monitor = Literal["srcc_within", "mse"]
WARM_UP = 0.1
"""Share of the training steps in which the learning rate rises; after it, a cosine down to 0."""


class Epoch(TypedDict):
    """One entry of ``history`` in metrics.json; the validation numbers are of the first evaluator."""

    epoch: int
    train_loss: float
    val_srcc_within: float | None
    val_selection_gain: float | None


class ProbeModule(LightningModule):
    """Trains ``probe`` in place.

    ``ema`` > 0 keeps a moving average of the weights, which validation and ``finish`` use; its decay grows
    from 0.1 to ``ema`` over the first steps, so that the random start is forgotten also in short trainings.
    The epoch with the best validation value of the first evaluator is kept: within-prompt SRCC (``monitor``),
    or for probes that cannot rank the smallest squared error. ``labels`` ``[samples of the cache, E]``
    replace the scores in training and validation.
    """

    def __init__(
        self,
        probe: Probe,
        objective: Objective,
        trainer: Trainer,
        *,
        ema: float = 0.0,
        monitor: Monitor = "srcc_within",
        labels: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.probe = probe
        self.objective = objective
        self.settings = trainer
        self.monitor = monitor
        self.labels = labels
        self.history: list[Epoch] = []
        self.average: AveragedModel | None = None
        if ema > 0:
            self.average = AveragedModel(probe, multi_avg_fn=_MovingAverage(ema))
            self.average.requires_grad_(False)
        self.best = -math.inf
        self.best_state: dict[str, Tensor] = {}
        self.train_loss = MeanMetric()
        self.val_srcc = WithinPromptSpearman()
        self.val_gain = SelectionGain()
        self.val_error = MeanSquaredError()

    @property
    def evaluated(self) -> Probe:
        """The probe with averaged weights, where there is an average."""
        if self.average is None:
            return self.probe
        return cast(Probe, self.average.module)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs = Inputs.of(batch)
        if isinstance(self.probe.encoder, CNNEncoder):
            inputs = randomly_shifted(inputs, self.probe.encoder.grid)
        targets = self._targets(batch)
        output = self.probe(inputs)
        loss = self.objective.scored(
            output.prediction, self.probe.standardised(targets), batch.group, self.current_epoch
        )
        if self.objective.contrastive:
            embedding, text = self.probe.alignment(output, inputs)
            loss = loss + self.objective.contrast(embedding, text, batch.group)
        self.train_loss.update(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        if self.average is not None:
            self.average.update_parameters(self.probe)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        prediction = self.evaluated.predict(Inputs.of(batch))[:, 0].contiguous()
        target = self._targets(batch)[:, 0].contiguous()
        self.val_srcc.update(prediction, target, batch.group)
        self.val_gain.update(prediction, target, batch.group)
        self.val_error.update(prediction, target)

    def _targets(self, batch: Batch) -> Tensor:
        """Raw scores ``[B, E]``, or what replaces them."""
        return batch.targets if self.labels is None else self.labels[batch.sample_id.cpu()].to(batch.targets)

    def on_validation_epoch_end(self) -> None:
        score = float(self.val_srcc.compute() if self.monitor == "srcc_within" else -self.val_error.compute())
        # Not "score >= best": where no prompt can be ranked (nan) the last epoch is kept.
        if not score < self.best:
            self.best = score
            self.best_state = copy.deepcopy(self.evaluated.state_dict())

    def on_train_epoch_end(self) -> None:
        found = {"val_srcc_within": self.val_srcc, "val_selection_gain": self.val_gain}
        values = {name: float(metric.compute()) for name, metric in found.items()}
        loss = float(self.train_loss.compute())
        self.log_dict({"train_loss": loss, **values}, on_step=False, on_epoch=True)
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.history.append(
            Epoch(
                epoch=self.current_epoch,
                train_loss=loss,
                val_srcc_within=known["val_srcc_within"],
                val_selection_gain=known["val_selection_gain"],
            )
        )
        for metric in (self.train_loss, self.val_srcc, self.val_gain, self.val_error):
            metric.reset()

    def finish(self) -> Probe:
        """The probe with the weights of the best epoch, in evaluation mode."""
        self.probe.load_state_dict(self.best_state or self.evaluated.state_dict())
        return self.probe.eval()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; weight decay on matrices and filters, not on norms and biases."""
        weights = [p for p in self.probe.parameters() if p.ndim > 1]
        others = [p for p in self.probe.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": self.settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.settings.learning_rate,
            fused=True,
        )
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate((step + 1) / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _rate(done: float) -> float:
    """Learning rate, as a share of the highest, when a share ``done`` of the steps is done."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (min(done, 1.0) - WARM_UP) / (1 - WARM_UP)))


class _MovingAverage:
    """Exponential moving average for ``AveragedModel``; a class, because closures cannot be copied to
    processes."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @torch.no_grad()
    def __call__(self, average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        seen = int(count)
        decay = min(self.decay, (1 + seen) / (10 + seen))
        torch._foreach_lerp_(list(average), list(current), 1 - decay)
