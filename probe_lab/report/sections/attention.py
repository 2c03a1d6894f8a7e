"""What the denoiser attends to in the seeds that the probe likes best and least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from probe_lab.metrics import within_prompt_estimate
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.pictures import frame, phrases, picture, read_sample, taps_of_kind
from probe_lab.report.layout.style import PAGE, evaluator_label, fitted, number_text, tap_label

QUANTILES = (0.9, 0.65, 0.35, 0.1)
MOST_PHRASES = 4
_PROMPT_SIZE, _TITLE_SIZE = 7.0, 5.0
"""Of the fonts of prompts, and of what stands above a picture."""
_BESIDE_PROMPT = 125.0
"""Points that the quotation marks and the correlation behind a prompt take."""

_TITLE = "Attention of the best and worst seed"
_EXPLANATION = """For each test prompt, the seed that the best probe predicts to be best (left half) and
worst (right half) at step {step}: the finished image, then the same image lit by the cross-attention of
{tap} at that step, for all content tokens together and for each phrase{alignment}. Bright is high; the two
seeds share one scale per phrase, from the lowest to the highest value of both. The prompts are no
showcase: they stand at the {quantiles} quantiles of the rank correlation between predicted and true
{evaluator} in a prompt, so good and bad predictions are both here. Where the probe is right, each phrase
of the left seed tends to have its own compact spot on its object, and the right seed has phrases that
share a spot or have none. Suspicious would be maps that look the same in both halves for every prompt."""


@dataclass(frozen=True)
class Lit:
    """One map of one sample, ``[h, w]``, with the name of its words."""

    name: str
    map: Tensor


def section(material: Material) -> Section:
    """One figure, or the reason why there is none."""
    cache, choice = material.cache, material.choice
    if cache is None or not cache.manifest.has_images:
        return Section("attention", _TITLE, "", skipped=("The report was made without the cache that holds the maps.",))
    taps = taps_of_kind(material, "attention")
    if not taps or choice.step not in cache.manifest.captured_steps:
        what = "an attention tap" if not taps else f"step {choice.step}"
        return Section("attention", _TITLE, "", skipped=(f"The cache holds no maps of {what}.",))
    evaluator = choice.evaluators[0]
    cell = next(iter(material.results.seeds(choice.best).values()))
    table = material.results.predictions(cell, evaluator)
    prompts = _prompts(table[table["sample_id"].isin(cache.complete_samples["sample_id"])])
    if not prompts:
        text = "No test prompt has a complete shard in the cache and seeds that differ in score and prediction."
        return Section("attention", _TITLE, "", skipped=(text,))
    key = f"{choice.step}/{taps[0]}"
    texts = cache.samples.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    rows = [
        _row(material, key, table[table["prompt_id"] == prompt], str(texts[prompt]), correlation)
        for prompt, correlation in prompts.items()
    ]
    aligned = all(len(lit) > 1 for row in rows for lit in row.maps)
    note = "" if aligned else " (only where the prompt has one token per word, which tells the tokens of a phrase)"
    text = _EXPLANATION.format(
        step=choice.step,
        tap=tap_label(taps[0]),
        alignment=note,
        quantiles=", ".join(f"{quantile:.0%}" for quantile in QUANTILES[: len(rows)]),
        evaluator=evaluator_label(evaluator),
    )
    alt = f"Images of {len(rows)} test prompts, best and worst predicted seed, darkened where attention is low."
    return Section("attention", _TITLE, text, (Drawing("attention", alt, _draw(rows), photographic=True),))


@dataclass(frozen=True)
class AttentionRow:
    """What one line of the figure shows, best seed first."""

    prompt: str
    correlation: float
    pictures: list[npt.NDArray[np.uint8]]
    scores: list[float]
    maps: list[list[Lit]]


Row = AttentionRow
"""Its former name."""


def _prompts(table: pd.DataFrame) -> dict[int, float]:
    """Prompt -> rank correlation, at the quantiles; prompts without a defined correlation never."""
    found: dict[int, float] = {}
    for prompt in table["prompt_id"].unique():
        rows = table[table["prompt_id"] == prompt]
        if np.ptp(rows["target"]) > 0 and np.ptp(rows["prediction"]) > 0:
            found[int(prompt)] = within_prompt_estimate(
                rows["prediction"], rows["target"], rows["prompt_id"], "srcc_within"
            )
    order = sorted(found, key=lambda prompt: (found[prompt], prompt))
    at = [order[round(quantile * (len(order) - 1))] for quantile in QUANTILES] if order else []
    return {prompt: found[prompt] for prompt in dict.fromkeys(at)}


def _row(material: Material, key: str, rows: pd.DataFrame, prompt: str, correlation: float) -> AttentionRow:
    assert material.cache
    ordered = rows.sort_values("prediction", ascending=False, kind="stable").reset_index(drop=True)
    ends = ordered.iloc[[0, -1]]
    samples = [int(sample) for sample in ends["sample_id"]]
    return AttentionRow(
        prompt,
        correlation,
        [picture(material.cache, sample) for sample in samples],
        [float(score) for score in ends["target"]],
        [_lit(read_sample(material.cache, key, sample), prompt) for sample in samples],
    )


def _lit(maps: Tensor, prompt: str) -> list[Lit]:
    """The mean over content tokens, then one map per phrase if the tokens can be told (``maps`` is
    [tokens, h, w])."""
    # Maps of padding are zero; the first and the last token that are left begin and end the text.
    used = maps.flatten(1).any(dim=1).nonzero().flatten()
    tokens = maps[: int(used[-1]) + 1] if len(used) else maps
    words = prompt.split()
    if len(tokens) != len(words) + 2:
        return [Lit("all words", tokens[1:-1].mean(dim=0) if len(tokens) > 2 else tokens.mean(dim=0))]
    found = phrases(words)[:MOST_PHRASES]
    content = [i + 1 for _, positions in phrases(words) for i in positions]
    mean = tokens[content].mean(dim=0) if content else tokens[1:-1].mean(dim=0)
    return [Lit("all words", mean)] + [Lit(name, tokens[[i + 1 for i in at]].mean(dim=0)) for name, at in found]


def _draw(rows: list[AttentionRow]) -> Figure:
    half = 1 + max(len(maps) for row in rows for maps in row.maps)
    widths = [1.0] * half + [0.12] + [1.0] * half
    tile = (PAGE - 0.35) / sum(widths)
    figure = Figure(figsize=(PAGE, len(rows) * (tile + 0.42)))
    bands = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for band, row in zip(bands, rows, strict=True):
        prompt = fitted(row.prompt, 72 * PAGE - _BESIDE_PROMPT, _PROMPT_SIZE)
        band.suptitle(
            f"“{prompt}”  (rank correlation {number_text(row.correlation, plus=True)})",
            fontsize=_PROMPT_SIZE,
            x=0.01,
            ha="left",
            style="italic",
        )
        axes = band.subplots(1, len(widths), width_ratios=widths)
        for ax in axes:
            ax.set_axis_off()
        scales = _scales(row)
        for side, name in enumerate(("predicted best", "predicted worst")):
            start = side * (half + 1)
            image = row.pictures[side]
            _tile(axes[start], image, f"score {number_text(row.scores[side])}", 72 * tile)
            axes[start].text(
                -0.06,
                0.5,
                name,
                rotation=90,
                ha="right",
                va="center",
                fontsize=5.5,
                transform=axes[start].transAxes,
            )
            for ax, lit, scale in zip(axes[start + 1 :], row.maps[side], scales, strict=False):
                _tile(ax, _light(image, lit.map, scale), lit.name, 72 * tile)
    return figure


def _scales(row: AttentionRow) -> list[tuple[float, float]]:
    """(lowest, highest) of both seeds, per map."""
    pairs = zip(*row.maps, strict=True)
    return [(min(float(lit.map.min()) for lit in pair), max(float(lit.map.max()) for lit in pair)) for pair in pairs]


def _light(image: npt.NDArray[np.uint8], map: Tensor, scale: tuple[float, float]) -> npt.NDArray[np.float64]:
    """The image as if lit by the map: its own colours, nearly black where attention is lowest."""
    low, high = scale
    size = image.shape[:2]
    large = F.interpolate(map[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].double().numpy()
    light = np.clip((large - low) / max(high - low, 1e-12), 0.0, 1.0)
    lit: npt.NDArray[np.float64] = image / 255.0 * (0.1 + 0.9 * light[:, :, None])
    return lit


def _tile(ax: Axes, image: npt.NDArray[np.uint8] | npt.NDArray[np.float64], title: str, width: float) -> None:
    """A picture with a title of at most ``width`` points."""
    ax.imshow(image)
    frame(ax)
    ax.set_title(fitted(title, width, _TITLE_SIZE), fontsize=_TITLE_SIZE, fontweight="normal", loc="center", pad=2)
