# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "datasets>=4",
#     "image-reward==1.5",
#     "openai-clip==1.0.1",
#     "setuptools<81",
#     "transformers==4.55.4",
# ]
# ///
"""ImageReward scores by the original package, alone in an environment of its own: nothing of probe_lab is imported.

`uv run --script tests/judges/image_reward_judge.py JOB` reads a JSON file {weights, vocabulary, text, vision,
pictures, prompts}: paths of a checkpoint, of BERT's vocab.txt and of pictures, with a prompt each; `text` is what
med_config.json holds, and `vision` the arguments of the package's vision tower, empty for the released one. It prints
{scores, versions} as its last line.

The code of the package runs as published. The vocabulary is a folder `bert-base-uncased` of the current one, where
transformers looks before it downloads. Where `vision` or the text's width are not the released model's, the tower and
the head are the package's own, of those sizes.
"""

import json
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

RELEASED_WIDTH = 768


def model_of(job: dict):
    import ImageReward
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    if job["vision"]:
        blip_pretrain.create_vit = lambda *_: (VisionTransformer(**job["vision"]), job["vision"]["embed_dim"])
    if job["text"]["hidden_size"] != RELEASED_WIDTH:
        module = sys.modules["ImageReward.ImageReward"]  # the package has a class of that name in its place
        original = module.MLP
        module.MLP = lambda _: original(job["text"]["hidden_size"])
    Path("med_config.json").write_text(json.dumps(job["text"]), encoding="utf-8")
    return ImageReward.load(job["weights"], device="cpu", med_config="med_config.json")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("bert-base-uncased").mkdir()
        shutil.copyfile(job["vocabulary"], "bert-base-uncased/vocab.txt")
        model = model_of(job)
        pairs = zip(job["pictures"], job["prompts"], strict=True)
        scores = [model.score(prompt, picture) for picture, prompt in pairs]
        os.chdir("/")
    versions = {
        package: version(package) for package in ("image-reward", "torch", "torchvision", "transformers", "timm")
    }
    print(json.dumps({"scores": scores, "versions": versions}))


if __name__ == "__main__":
    main()
