"""Training of a probe as a LightningModule: objective, average of weights, choice of the best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torchmetrics import MeanMetric, MeanSquaredError

from probe_lab.config import Trainer
from probe_lab.data import Batch
from probe_lab.metrics import SelectionGain, WithinPromptSpearman
from probe_lab.probes.encoder import CNNEncoder
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.probe import Probe
from probe_lab.training.augment import random_shift, randomly_shifted
from probe_lab.training.best_epoch import BestEpoch, weights_of
from probe_lab.training.divergence import diverged
from probe_lab.training.flat_weights import FlatWeights
from probe_lab.training.objective import Objective

Monitor = Literal["srcc_within", "mse"]
ContinueAfterEpoch = Callable[[int, float], bool]
"""(epochs done, best validation value) -> whether to train on."""
Stop = Literal["", "patience", "halving"]
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

    ``ema`` > 0 keeps a moving average of the weights, which validation and ``finish`` use; with ``ema_warmup`` its
    decay grows from 0.1 to ``ema`` over the first steps, so that the start is forgotten also in short trainings.
    The epoch with the best validation value of the first evaluator is kept: within-prompt SRCC (``monitor``),
    or for probes that cannot rank the smallest squared error. ``labels`` ``[samples of the cache, E]``
    replace the scores in training and validation. Training ends early after ``trainer.patience`` epochs without a
    better value, or when ``go_on`` says so; ``stopped`` then tells by which, "" otherwise.

    Raises:
        ProbeError: after an epoch whose predictions are not finite.
    """

    def __init__(
        self,
        probe: Probe,
        objective: Objective,
        trainer: Trainer,
        *,
        ema: float = 0.0,
        ema_warmup: bool = True,
        monitor: Monitor = "srcc_within",
        labels: Tensor | None = None,
        go_on: ContinueAfterEpoch | None = None,
    ) -> None:
        super().__init__()
        self.probe = probe
        self.objective = objective
        self.settings = trainer
        self.monitor = monitor
        self.labels = labels
        self.history: list[Epoch] = []
        self.stopped: Stop = ""
        self.averaged = copy.deepcopy(probe).requires_grad_(False) if ema > 0 else None
        self._decay, self._warmup, self._updates = ema, ema_warmup, 0
        self._weights: FlatWeights | None = None
        self._average: FlatWeights | None = None
        self._go_on = go_on
        self._best = BestEpoch()
        self.train_loss = MeanMetric()
        self.val_srcc = WithinPromptSpearman()
        self.val_gain = SelectionGain()
        self.val_error = MeanSquaredError()

    @property
    def evaluated(self) -> Probe:
        """The probe with averaged weights, where there is an average."""
        return self.probe if self.averaged is None else self.averaged

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs = Inputs.of(batch)
        if isinstance(self.probe.encoder, CNNEncoder):
            inputs = randomly_shifted(inputs, self.probe.encoder.grid, self.draw_shift)
        output = self.probe(inputs)
        rows = [output.prediction, self.probe.standardised(self._targets(batch)), batch.group]
        if self.objective.contrastive:
            rows += self.probe.alignment(output, inputs)
        prediction, target, group, *pair = self.of_whole_batch(rows)
        loss = self.objective.scored(prediction, target, group, self.epoch)
        if pair:
            embedding, text = pair
            loss = loss + self.objective.contrast(embedding, text, group, self.epoch)
        self.train_loss.update(loss.detach())
        return loss

    def of_whole_batch(self, rows: Sequence[Tensor]) -> Sequence[Tensor]:
        """The rows that a loss compares, ``[B, …]`` each: those of this process, which has the whole batch."""
        return rows

    def draw_shift(self) -> Tensor:
        """By how many cells the next training batch is moved, see ``randomly_shifted``."""
        return random_shift()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        self.zero_weights_grad()

    def zero_weights_grad(self) -> None:
        """Before a step: all gradients are zero."""
        assert self._weights is not None
        self._weights.zero_grad()

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        self.update_average()

    def update_average(self) -> None:
        """After a step of the optimizer, update the moving average of the weights; the first call copies them."""
        if self._average is not None and self._weights is not None:
            seen = self._updates
            decay = min(self._decay, (1 + seen) / (10 + seen)) if self._warmup else self._decay
            self._average.lerp_(self._weights, 1 - decay if seen else 1.0)
            self._updates += 1

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        prediction = self.evaluated.predict(Inputs.of(batch))[:, 0].contiguous()
        target = self._targets(batch)[:, 0].contiguous()
        group = self._compared(batch)
        self.val_srcc.update(prediction, target, group)
        self.val_gain.update(prediction, target, group)
        self.val_error.update(prediction, target)

    def _compared(self, batch: Batch) -> Tensor:
        """``[B]``: which samples are compared, those of one prompt at one step."""
        spec = self.probe.spec
        return batch.group * (spec.total_steps + 1) + batch.step if spec.steps else batch.group

    def _targets(self, batch: Batch) -> Tensor:
        """Raw scores ``[B, E]``, or what replaces them."""
        return batch.targets if self.labels is None else self.labels[batch.sample_id.cpu()].to(batch.targets)

    def on_validation_epoch_end(self) -> None:
        # Of all ranks, so that they stop together.
        error = float(self.val_error.compute()) if self.val_error.update_called else 0.0
        if not math.isfinite(error):
            raise diverged(self.probe.spec.kind, self.settings.learning_rate, self.objective.temperature)
        score = float(self.val_srcc.compute()) if self.monitor == "srcc_within" else -error
        self._best.offer(self.epoch, score, self.evaluated)

    def on_train_epoch_end(self) -> None:
        last = self.end_epoch()
        shown = {name: math.nan if value is None else value for name, value in last.items() if name != "epoch"}
        self.log_dict(shown, on_step=False, on_epoch=True)
        self.trainer.should_stop = bool(self.stopped)

    def end_epoch(self) -> Epoch:
        """Close the epoch: its entry of the history, and whether it is the last."""
        found = {"val_srcc_within": self.val_srcc, "val_selection_gain": self.val_gain}
        values = {name: float(metric.compute()) for name, metric in found.items()}
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        last = Epoch(
            epoch=self.epoch,
            train_loss=float(self.train_loss.compute()),
            val_srcc_within=known["val_srcc_within"],
            val_selection_gain=known["val_selection_gain"],
        )
        self.history.append(last)
        for metric in (self.train_loss, self.val_srcc, self.val_gain, self.val_error):
            metric.reset()

        self.stopped = self._stop()
        return last

    def _stop(self) -> Stop:
        if self.epoch >= self.settings.max_epochs:
            return ""
        if 0 < self.settings.patience <= self.epoch - 1 - self._best.improved:
            return "patience"
        return "" if self._go_on is None or self._go_on(self.epoch, self._best.value) else "halving"

    def finish(self) -> Probe:
        """The probe with the weights of the best epoch, in evaluation mode and with storage of its own."""
        self.probe.load_state_dict(self._best.weights or weights_of(self.evaluated), assign=True)
        return self.probe.eval()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer, schedule = self.optimizers_for(int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizers_for(self, steps: int) -> tuple[Optimizer, LRScheduler]:
        """AdamW and its learning rate over ``steps`` steps; weight decay on matrices and filters, not on norms and
        biases. The weights are where they will be trained."""
        self._weights = FlatWeights(self.probe)
        self._average = None if self.averaged is None else FlatWeights(self.averaged)
        optimizer = torch.optim.AdamW(
            [
                {"params": [self._weights.matrices], "weight_decay": self.settings.weight_decay},
                {"params": [self._weights.vectors], "weight_decay": 0.0},
            ],
            lr=self.settings.learning_rate,
            fused=True,
        )
        return optimizer, LambdaLR(optimizer, lambda step: rate((step + 1) / max(steps, 1)))


def rate(done: float) -> float:
    """Learning rate, as a share of the highest, when a share ``done`` of the steps is done."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (min(done, 1.0) - WARM_UP) / (1 - WARM_UP)))
