# /// script
# requires-python = "==3.11.*"
# dependencies = ["hpsv2==1.2.0", "openai-clip==1.0.1", "torch==2.15.0", "torchvision==0.29.2"]
# ///
"""HPSv2 scores by the original package, alone in an environment of its own: nothing of probe_lab is imported.

`uv run --script tests/judges/hpsv2_judge.py JOB` reads a JSON file {weights, config, pictures, prompts}: paths of a
checkpoint, of an open_clip config with the name of the architecture (empty for ViT-H-14), and of pictures, with a
prompt each. It prints {scores, versions} as its last line.

The code of the package runs as published. Two things are done for it, without which it cannot start: the vocabulary
that its wheel lacks is laid where it looks for it (OpenAI's file, from openai-clip), and a model without weights stands
where it would put the base model that it downloads; the checkpoint then replaces all weights, as it does with those.
"""

import json
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def folder_of(package: str) -> Path:
    return Path(find_spec(package).origin).parent


def place_vocabulary() -> None:
    place = folder_of("hpsv2") / "src" / "open_clip" / VOCABULARY
    if not place.exists():
        shutil.copyfile(folder_of("clip") / VOCABULARY, place)


def scores_of(job: dict) -> list[float]:
    from hpsv2 import img_score
    from hpsv2.src.open_clip import add_model_config, create_model_and_transforms

    architecture = "ViT-H-14"
    if job["config"]:
        add_model_config(job["config"])
        architecture = Path(job["config"]).stem
    model, _, transform = create_model_and_transforms(
        architecture, None, precision="amp", device=img_score.device, light_augmentation=True, output_dict=True
    )
    img_score.model_dict.update(model=model, preprocess_val=transform)
    pairs = zip(job["pictures"], job["prompts"], strict=True)
    return [float(img_score.score(picture, prompt, cp=job["weights"])[0]) for picture, prompt in pairs]


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    place_vocabulary()
    scores = scores_of(job)
    versions = {package: version(package) for package in ("hpsv2", "torch", "torchvision", "transformers", "timm")}
    print(json.dumps({"scores": scores, "versions": versions}))


if __name__ == "__main__":
    main()
