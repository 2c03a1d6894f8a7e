"""Every evaluator that ships: its name, what it measures, and the class that runs it.

Classes are imported when one is made: listing evaluators, or scoring with the exact ones, loads no model library.
"""

from __future__ import annotations

from importlib import import_module

from probe_lab.errors import ConfigError
from probe_lab.evaluators.base import Card, Evaluator, Factory, Settings, register

HUB = "https://huggingface.co/"
ORIGINALS = ("hps", "image_reward")
"""Modules whose classes have one in ``reference``, "Reference" before its name."""


def _of(path: str) -> Factory:
    """Makes an object of ``module:class`` below this package."""
    module, _, name = path.partition(":")

    def make(settings: Settings) -> Evaluator:
        original = settings.model.backend == "reference"
        if original and module not in ORIGINALS:
            raise ConfigError(
                f"scoring.models.{settings.name}.backend is reference and there is no original package of that: "
                "leave it native (image_reward, hps_v2 and hps_v2_1 have one)"
            )
        home, kind = ("reference", f"Reference{name}") if original else (module, name)
        evaluator: Evaluator = getattr(import_module(f"probe_lab.evaluators.{home}"), kind)(settings)
        return evaluator

    return make


def _exact(reward: str, measures: str) -> None:
    register(reward, _of("shapes:ShapesEvaluator"), Card(measures, "0 to 1", "exact, from the picture", "Apache-2.0"))


_exact("shapes_reward", "blend of the other four")
_exact("shapes_presence", "every object is there, in its colour")
_exact("shapes_binding", "each colour comes in its shape")
_exact("shapes_layout", "the relations hold")
_exact("shapes_fidelity", "painted flat, with sharp outlines")

register(
    "shapes_clip_score",
    _of("clip:ShapesClipScore"),
    Card("text alignment, learned on the shapes world", "-1 to 1", "CLIP, shipped", "Apache-2.0"),
)
register(
    "clip_score",
    _of("clip:ClipScore"),
    Card(
        "text alignment",
        "-1 to 1",
        "CLIP ViT-B/16, B/32, L/14",
        "MIT",
        f"{HUB}openai/clip-vit-base-patch16, {HUB}laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "model.safetensors or open_clip_model.safetensors",
    ),
)
register(
    "pick_score",
    _of("pick_score:PickScore"),
    Card(
        "human preference",
        "about 15 to 25",
        "CLIP ViT-H/14",
        "MIT",
        f"{HUB}yuvalkirstain/PickScore_v1",
        "model.safetensors",
    ),
)
register(
    "aesthetic",
    _of("aesthetic:Aesthetic"),
    Card(
        "aesthetics, without the prompt",
        "about 1 to 10",
        "CLIP ViT-L/14 and a head",
        "Apache-2.0",
        "https://github.com/christophschuhmann/improved-aesthetic-predictor",
        "sac+logos+ava1-l14-linearMSE.pth",
    ),
)
for _name, _file in {"hps_v2": "HPS_v2_compressed.pt", "hps_v2_1": "HPS_v2.1_compressed.pt"}.items():
    register(
        _name,
        _of("hps:HpsV2"),
        Card("human preference", "about 0.2 to 0.35", "CLIP ViT-H/14", "Apache-2.0", f"{HUB}xswu/HPSv2", _file),
    )
register(
    "image_reward",
    _of("image_reward:ImageReward"),
    Card(
        "human preference",
        "about -2.3 to 2",
        "BLIP ViT-L and a head",
        "Apache-2.0",
        f"{HUB}zai-org/ImageReward",
        "ImageReward.pt",
    ),
)
for _name, _class, _measures, _range in [
    ("blip_itm", "BlipItm", "text alignment, probability of a match", "0 to 1"),
    ("blip_itc", "BlipItc", "text alignment, cosine", "-1 to 1"),
]:
    register(
        _name,
        _of(f"blip:{_class}"),
        Card(
            _measures, _range, "BLIP ViT-B", "BSD-3-Clause", f"{HUB}Salesforce/blip-itm-base-coco", "model.safetensors"
        ),
    )
