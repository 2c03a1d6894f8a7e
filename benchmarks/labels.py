"""What further captions of a picture cost, over one evaluation of it: `score_captions` against `score_family`.

`python -m benchmarks.labels [--towers NAME ...] [--images N] [--captions N] [--repeats N] [--json FILE]` scores
pictures, 8 to a prompt, under the prompt alone, and under it and 8 altered captions. `shapes_reward` scores drawn
scenes. `hps_v2_1` (a CLIP ViT-H/14) and `image_reward` (a ViT-L/16 with a BERT that looks at the picture) have the
sizes of the released models and random weights, and score noise of the size that they are shown. Loading, decoding and
preparing pictures count on neither side. CPU seconds of all threads are what can be compared on a shared machine; both
sides take turns.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import nn

from benchmarks.output import show
from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.data.splits import SplitFractions
from probe_lab.evaluators import Evaluator, Settings, create
from probe_lab.evaluators.base import Prepared
from probe_lab.evaluators.clip_tokens import openai_tokenizer
from probe_lab.evaluators.clip_tower import ClipTower
from probe_lab.evaluators.hps import HpsV2
from probe_lab.evaluators.image_reward import ImageReward, ImageRewardNetwork
from probe_lab.labels.alteration import HeldOut, alter
from probe_lab.shapes.captions import parse_caption, sample_captions
from probe_lab.shapes.render import render

AT_MOST = 0.5
"""Time of 8 further captions of a picture over one evaluation of it, with a ViT-H."""
PER_PROMPT, SIDE = 8, 224
_RELEASED: Mapping[str, tuple[int, ...]] = {
    "visual_encoder.pos_embed": (1, 197, 1024),
    "visual_encoder.patch_embed.proj.weight": (1024, 3, 16, 16),
    "visual_encoder.blocks.0.mlp.fc1.weight": (4096, 1024),
    "visual_encoder.blocks.23.mlp.fc1.weight": (4096, 1024),
    "text_encoder.embeddings.word_embeddings.weight": (30_522, 768),
    "text_encoder.embeddings.position_embeddings.weight": (512, 768),
    "text_encoder.encoder.layer.0.intermediate.dense.weight": (3072, 768),
    "text_encoder.encoder.layer.11.intermediate.dense.weight": (3072, 768),
    "vision_proj.weight": (256, 1024),
}
"""Arrays of ImageReward's checkpoint that tell its sizes."""


class RandomHps(HpsV2):
    """Of full size; the file of its weights is not read."""

    def build(self) -> ClipTower:
        return ClipTower(open_clip.create_model(self.architecture, load_weights=False), openai_tokenizer(77))


class RandomImageReward(ImageReward):
    """Of full size; the file of its weights is not read."""

    def build(self) -> nn.Module:
        return ImageRewardNetwork({name: torch.empty(shape, device="meta") for name, shape in _RELEASED.items()})


def random_hps(folder: Path) -> Evaluator:
    (folder / "weights.pt").touch()
    return RandomHps(Settings("hps_v2_1", EvaluatorModel(str(folder / "weights.pt")), Scoring(batch_size=PER_PROMPT)))


def random_image_reward(folder: Path) -> Evaluator:
    """With a vocabulary of as many entries as BERT's, that of the captions among them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_vocabulary()]
    words += [f"[unused{index}]" for index in range(_RELEASED[_EMBEDDED][0] - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "ImageReward.pt").touch()
    model = EvaluatorModel(str(folder / "ImageReward.pt"), base=str(folder / "vocab.txt"))
    return RandomImageReward(Settings("image_reward", model, Scoring(batch_size=PER_PROMPT)))


_EMBEDDED = "text_encoder.embeddings.word_embeddings.weight"


def _vocabulary() -> list[str]:
    return sorted({word for caption in itertools.islice(sample_captions(0), 500) for word in caption.split()})


TOWERS: Mapping[str, Callable[[Path], Evaluator]] = {
    "shapes_reward": lambda folder: create("shapes_reward"),
    "hps_v2_1": random_hps,
    "image_reward": random_image_reward,
}


def measure_tower(name: str, folder: Path, images: int, captions: int, repeats: int) -> dict[str, object]:
    """CPU and wall seconds per picture of both sides, and their ratio: what is beyond one evaluation, over it."""
    evaluator = TOWERS[name](folder)
    prompts = list(itertools.islice(sample_captions(0), images // PER_PROMPT))
    altered = alter(prompts, captions, "grammar", HeldOut(frozenset(), SplitFractions(1.0, 0.0, 0.0)), seed=0)
    own = [prompt for prompt in prompts for _ in range(PER_PROMPT)]
    under = [(prompt, *(each.text for each in altered[prompt])) for prompt in own]
    inputs = _inputs(evaluator, own)
    evaluator.score_family([evaluator], inputs[:1], own[:1])  # loads
    sides = {
        "one evaluation": lambda: evaluator.score_family([evaluator], inputs, own),
        "with captions": lambda: evaluator.score_captions([evaluator], inputs, under),
    }
    seconds: dict[str, dict[str, list[float]]] = {side: {"cpu": [], "wall": []} for side in sides}
    for turn in range(repeats):
        for side in sides if turn % 2 == 0 else reversed(sides):
            cpu, wall = time.process_time(), time.perf_counter()
            sides[side]()
            seconds[side]["cpu"].append((time.process_time() - cpu) / images)
            seconds[side]["wall"].append((time.perf_counter() - wall) / images)
    one, both = (statistics.median(seconds[side]["cpu"]) for side in sides)
    return {"seconds_per_picture": seconds, "further_over_one": (both - one) / one}


def _inputs(evaluator: Evaluator, captions: list[str]) -> list[Prepared]:
    if not evaluator.has_model:
        rng = random.Random(0)
        return [evaluator.prepare(Image.fromarray(render(parse_caption(caption), rng))) for caption in captions]
    return list(torch.randn(len(captions), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))


def measure(towers: list[str], images: int, captions: int, repeats: int) -> dict[str, object]:
    """As `--json` writes it."""
    with tempfile.TemporaryDirectory(prefix="probe_lab_labels_") as folder:
        return {
            "benchmark": "labels",
            "images": images,
            "captions": captions,
            "seeds_per_prompt": PER_PROMPT,
            "threads": torch.get_num_threads(),
            "target": AT_MOST,
            "towers": {name: measure_tower(name, Path(folder), images, captions, repeats) for name in towers},
        }


def table(result: dict[str, object]) -> str:
    towers = result["towers"]
    assert isinstance(towers, dict)
    lines = [f"{'':>16}{'one evaluation':>18}{'with captions':>18}{'further / one':>16}   CPU seconds per picture"]
    for name, found in towers.items():
        one, both = (statistics.median(side["cpu"]) for side in found["seconds_per_picture"].values())
        lines.append(f"{name:>16}{one:>18.4f}{both:>18.4f}{found['further_over_one']:>16.3f}")
    return "\n".join([*lines, f"{result['captions']} further captions; asked of a ViT-H: at most {AT_MOST}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument("--images", type=int, default=16, help=f"a multiple of {PER_PROMPT}")
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.towers, arguments.images, arguments.captions, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()
