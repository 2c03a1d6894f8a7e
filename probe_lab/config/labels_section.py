"""The section ``labels`` of an experiment: labels beside the score of each finished image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe_lab.config.declare import key, up_to
from probe_lab.config.world_sections import STEPS

Alter = Literal["auto", "grammar", "words", "prompts"]


@dataclass(frozen=True)
class LabelsConfig:
    """Scores of training pictures under captions that are not theirs, and of previews: `probe-lab score` makes them."""

    captions: int = key(0, "Altered captions per training prompt, beside its own. 0 makes no labels.", up_to(64))
    alter: Alter = key(
        "auto",
        "How captions are altered. `grammar`: objects and links of the shapes world; `words`: words replaced, swapped "
        "or dropped; `prompts`: other training prompts; `auto`: `grammar` for `prompts.source: shapes`, else words "
        "and prompts by turns.",
    )
    steps: list[int] = key(
        [], "Steps whose predicted x₀ is decoded and scored. The cache must hold the tap `x0` of each.", allowed=STEPS
    )
    images: bool = key(True, "Score the finished images under the altered captions too. Picture judges learn from it.")
    renoised: int = key(
        0,
        "Fresh noises per finished training image: noised as at one of `labels.steps`, a denoiser call gives a further "
        "x₀, whose label is the score of the image. Needs `labels.images`.",
        up_to(1_000),
    )
