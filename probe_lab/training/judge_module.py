"""Training of a picture judge as a LightningModule."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from probe_lab.config import JudgeConfig
from probe_lab.probes.picture_judge import PictureJudge
from probe_lab.probes.ridge import prompt_means
from probe_lab.training.flat_weights import FlatWeights
from probe_lab.training.judge_batches import JudgeBatch
from probe_lab.training.lightning_module import rate

DECAY = 0.995
"""Of the moving average of the weights, which the judge is in the end."""
_STATE = ("exp_avg", "exp_avg_sq")


class JudgeModule(LightningModule):
    """Trains ``judge`` to give the labels; ``averaged`` is the result.

    The loss is the squared error of standardised scores, plus that of what they differ by from the mean of a prompt's
    samples under the same caption: labels differ most between captions and prompts, and what is wanted is what tells
    the samples of a prompt apart. Labels that are missing (NaN) teach nothing.

    ``done`` counts batches, ``loss`` is the last one's, and ``is_settled`` says that no batch is half done.
    """

    def __init__(self, judge: PictureJudge, settings: JudgeConfig, *, done: int = 0) -> None:
        super().__init__()
        self.judge, self.settings, self.done = judge, settings, done
        self.averaged = copy.deepcopy(judge).requires_grad_(False)
        self.loss = 0.0
        self.is_settled = True
        self._weights: FlatWeights | None = None
        self._average: FlatWeights | None = None
        self._resumed: Mapping[str, Tensor] = {}

    def training_step(self, batch: JudgeBatch, batch_idx: int) -> Tensor:
        self.is_settled = False
        predicted = self.judge(batch.clean, batch.share, batch.tokens, batch.mask)
        target = (batch.labels - self.judge.label_mean) / self.judge.label_scale
        there = target.isfinite()
        error = torch.where(there, predicted - target.nan_to_num(), 0.0).flatten(1)
        apart = error - prompt_means(error, batch.group)
        loss = (error.square().sum() + apart.square().sum()) / there.sum().clamp_min(1)
        self.loss = float(loss.detach())
        return loss

    def transfer_batch_to_device(self, batch: JudgeBatch, device: torch.device, dataloader_idx: int) -> JudgeBatch:
        return JudgeBatch(**{name: values.to(device) for name, values in vars(batch).items()})

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        assert self._weights is not None
        self._weights.zero_grad()

    def on_train_batch_end(self, outputs: object, batch: JudgeBatch, batch_idx: int) -> None:
        assert self._average is not None
        assert self._weights is not None
        self._average.lerp_(self._weights, 1 - min(DECAY, (1 + self.done) / (10 + self.done)))
        self.done += 1
        self.is_settled = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        self._weights, self._average = FlatWeights(self.judge), FlatWeights(self.averaged)
        optimizer = torch.optim.AdamW(
            [
                {"params": [self._weights.matrices], "weight_decay": self.settings.weight_decay},
                {"params": [self._weights.vectors], "weight_decay": 0.0},
            ],
            lr=self.settings.learning_rate,
            fused=True,
        )
        if self._resumed:
            self._restore(optimizer)
        begun = self.done
        schedule = LambdaLR(optimizer, lambda step: rate((begun + step + 1) / self.settings.batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def progress(self) -> dict[str, Tensor]:
        """All that a training needs to go on from here, by plain tensors."""
        assert self._weights is not None
        assert self._average is not None
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        kept = {"done": torch.tensor(self.done)}
        for name, weights in zip(("matrices", "vectors"), self._weights.parts, strict=True):
            kept[name] = weights.detach().cpu().clone()
            kept |= {f"{name}.{key}": optimizer.state[weights][key].cpu().clone() for key in _STATE}
        for name, average in zip(("matrices", "vectors"), self._average.parts, strict=True):
            kept[f"{name}.average"] = average.detach().cpu().clone()
        return kept

    def resume(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from what ``progress`` gave."""
        self.done, self._resumed = int(kept["done"]), kept

    @torch.no_grad()
    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        assert self._weights is not None
        assert self._average is not None
        kept = self._resumed
        for name, weights, average in zip(
            ("matrices", "vectors"), self._weights.parts, self._average.parts, strict=True
        ):
            weights.copy_(kept[name])
            average.copy_(kept[f"{name}.average"])
            optimizer.state[weights] = {
                "step": torch.tensor(float(self.done), device=weights.device),  # where a fused step looks for it
                **{key: kept[f"{name}.{key}"].to(weights.device) for key in _STATE},
            }
