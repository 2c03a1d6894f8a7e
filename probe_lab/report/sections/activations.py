"""The first three principal components of a block's activations, as colours, over the steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.pictures import frame, picture, read_sample, taps_of_kind
from probe_lab.report.layout.style import PAGE, tap_label

SHOWN = 4
FITTED = 256  # samples; each gives H·W vectors per step

_TITLE = "Activations over steps"
_EXPLANATION = """Activations of {tap}, reduced to three principal components that are shown as red, green
and blue; last column: the finished image. The basis is fitted once, on {samples} training samples and all
steps together (channels standardised), and holds {variance:.0%} of the variance; so a colour means the
same in every field, which a basis per sample would not give. The samples are the first seeds of the first
test prompts. Read a row from left to right: the layout should appear early and objects should sharpen with
later steps; a step where it becomes readable to you is often where a probe's curve rises. Suspicious would
be a row whose early fields already look like the finished image (activations of another step), or uniform
fields (a dead tap)."""


@dataclass(frozen=True)
class ActivationColours:
    """Colours of activations: ``(x − mean) / std @ components``, then ``low`` … ``high`` to 0 … 1, per
    channel."""

    mean: Tensor  # [C]
    std: Tensor  # [C]
    components: Tensor  # [C, 3]
    low: Tensor  # [3]
    high: Tensor  # [3]
    variance: float
    samples: int

    def colours(self, activation: Tensor) -> npt.NDArray[np.float32]:
        """``[C, H, W]`` to ``[H, W, 3]`` in 0 … 1."""
        vectors = activation.permute(1, 2, 0).double()
        projected = ((vectors - self.mean) / self.std) @ self.components
        scaled = (projected - self.low) / (self.high - self.low).clamp_min(1e-12)
        return scaled.clamp(0.0, 1.0).float().numpy()


def section(material: Material) -> Section:
    """One figure, or the reason why there is none."""
    cache = material.cache
    if cache is None or not cache.manifest.has_images:
        return Section("activations", _TITLE, "", skipped=("The report was made without the cache that holds them.",))
    taps = [tap for tap in taps_of_kind(material, "activation") if cache.manifest.taps[tap][0] >= 3]
    if not taps:
        text = "The cache holds no activation tap of three channels or more (capture.taps has none)."
        return Section("activations", _TITLE, "", skipped=(text,))
    complete = cache.picture_samples
    split = material.splits(complete)
    train = complete.loc[split == "train", "sample_id"].to_numpy()
    shown = complete[split == "test"].drop_duplicates("prompt_id")["sample_id"].head(SHOWN)
    if not len(train) or not len(shown):
        text = "The complete shards of the cache hold no training or no test samples."
        return Section("activations", _TITLE, "", skipped=(text,))
    even = np.unique(np.linspace(0, len(train) - 1, min(FITTED, len(train))).round().astype(int))
    basis = fit_basis(cache, taps[0], [int(sample) for sample in train[even]])
    figure = _draw(cache, taps[0], [int(sample) for sample in shown], basis)
    text = _EXPLANATION.format(tap=tap_label(taps[0]), samples=basis.samples, variance=basis.variance)
    alt = f"{len(shown)} samples over the captured steps: activations as colours, and the finished images."
    return Section("activations", _TITLE, text, (Drawing("activations", alt, figure, photographic=True),))


def fit_basis(cache: Cache, tap: str, samples: list[int]) -> ActivationColours:
    """Principal components of the channel vectors of these samples at all captured steps; signs are fixed."""
    keys = [f"{step}/{tap}" for step in cache.manifest.captured_steps]
    arrays = torch.stack([read_sample(cache, key, sample) for key in keys for sample in samples])
    vectors = arrays.permute(0, 2, 3, 1).flatten(0, 2).double()
    std, mean = torch.std_mean(vectors, dim=0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    standard = (vectors - mean) / std
    values, columns = torch.linalg.eigh(standard.T @ standard / len(standard))
    components = columns[:, -3:].flip(1)
    # The sign of an eigenvector is arbitrary: with its largest loading positive, colours can be reproduced.
    largest = components.abs().argmax(dim=0, keepdim=True)
    components = components * components.gather(0, largest).sign()
    projected = standard @ components
    low, high = np.percentile(projected.numpy(), [1, 99], axis=0)
    variance = float(values[-3:].sum() / values.sum().clamp_min(1e-12))
    return ActivationColours(
        mean, std, components, torch.from_numpy(low), torch.from_numpy(high), variance, len(samples)
    )


def _draw(cache: Cache, tap: str, samples: list[int], basis: ActivationColours) -> Figure:
    steps = cache.manifest.captured_steps
    columns = len(steps) + 1
    tile = min((PAGE - 0.2) / columns, 0.95)
    figure = Figure(figsize=(tile * columns + 0.2, tile * len(samples) + 0.3))
    axes = figure.subplots(len(samples), columns, squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        for ax, step in zip(row, steps, strict=False):
            ax.imshow(basis.colours(read_sample(cache, f"{step}/{tap}", sample)))
        row[-1].imshow(picture(cache, sample))
        for ax in row:
            frame(ax)
    for ax, title in zip(axes[0], [*(f"step {step}" for step in steps), "image"], strict=True):
        ax.set_title(title, loc="center", fontsize=7)
    return figure
