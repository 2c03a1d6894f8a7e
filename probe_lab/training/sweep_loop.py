"""The training loop of a sweep: what Lightning's trainer does with a ``ProbeModule``, and nothing else.

A sweep trains hundreds of small probes, where the trainer's own bookkeeping would be a good part of the time. The order
of calls is Lightning's, so a probe is the same as one that was trained by its ``Trainer``; a test compares them.
"""

from __future__ import annotations

import math

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from probe_lab.data import Batch, ProbeDataModule
from probe_lab.training.lightning_module import ProbeModule


def fit(module: ProbeModule, data: ProbeDataModule, device: torch.device) -> None:
    """Train ``module`` in place on ``device`` until its epochs are over, or it says that it has ``stopped``."""
    module.to(device)
    module.train()
    train, validation = data.train_dataloader(), data.val_dataloader()
    batches, together = len(train), module.settings.accumulate
    optimizer, schedule = module.optimizers_for(math.ceil(batches / together) * module.settings.max_epochs)
    for epoch in range(module.settings.max_epochs):
        data.set_epoch(epoch)
        for index, batch in enumerate(train):
            first, last = index % together == 0, (index + 1) % together == 0 or index + 1 == batches
            if first:
                module.zero_weights_grad()
            (module.training_step(_on(batch, device), index) / together).backward()
            if last:
                _step(module, optimizer, schedule)
        with torch.no_grad():
            for index, batch in enumerate(validation):
                module.validation_step(_on(batch, device), index)
        module.on_validation_epoch_end()
        module.end_epoch()
        if module.stopped:
            return


def _step(module: ProbeModule, optimizer: Optimizer, schedule: LRScheduler) -> None:
    if module.settings.gradient_clip:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, module.settings.gradient_clip)
    optimizer.step()
    module.update_average()
    schedule.step()


def _on(batch: Batch, device: torch.device) -> Batch:
    return batch if device.type == "cpu" else batch.to(device, non_blocking=True)
