"""``python -m tools.tiny_models.clip_card``: the model card of the small CLIP, its figures measured here and now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from probe_lab.backbones.families import WEIGHTS
from probe_lab.cache import Cache
from probe_lab.metrics import Interval
from tools.tiny_models.clip_folder import CHECKPOINT
from tools.tiny_models.clip_measure import Caught, Judge, agreement, mistakes_caught, retrieved
from tools.tiny_models.mistakes import HELD_OUT, Mistake
from tools.tiny_models.model_card import Recorded

CLIP = WEIGHTS / "shapes-clip"
CAPTIONS = 1000
"""Captions, of those held out, that mistakes are made in."""

AMONG = 400
"""Captions that a picture's own is found among."""


@dataclass(frozen=True)
class ClipTraining(Recorded):
    """How the weights came about; ``loss`` is the mean of the last 200 steps."""

    command: str
    pool: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    compiled: bool
    loss: float
    minutes: float


@dataclass(frozen=True)
class Measured:
    """``agreed``: within-prompt Spearman by cache, then by exact reward."""

    caught: dict[Mistake, Caught]
    retrieved: float
    agreed: dict[str, dict[str, Interval]]


def measure(folder: Path, caches: list[Path]) -> Measured:
    """The figures of the card; of each cache the validation split."""
    judge = Judge.load(folder)
    return Measured(
        mistakes_caught(judge, CAPTIONS),
        retrieved(judge, AMONG),
        {path.name: agreement(judge, Cache(path), "val") for path in caches},
    )


def clip_card(training: ClipTraining, measured: Measured, megabytes: float) -> str:
    """The card as Markdown."""
    caught = "\n".join(f"| {name} | {each.share:.3f} | {each.count} |" for name, each in measured.caught.items())
    agreed = "\n".join(
        f"| {cache} | {name} | {each.estimate:.2f} | {each.lower:.2f} to {each.upper:.2f} | {each.prompts} |"
        for cache, rewards in measured.agreed.items()
        for name, each in rewards.items()
    )
    return f"""# shapes-clip

A CLIP for the shapes world of probe_lab, in open_clip's published format: a learned, imperfect evaluator of captions
of one to four coloured shapes. Its score is the cosine of picture and caption. {megabytes:.1f} MB of float16
safetensors.

```python
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:shapes-clip")
tokenizer = open_clip.get_tokenizer("local-dir:shapes-clip")
```

## Data

{training.pool} samples of `tools.tiny_models.contrastive`, from a seed: a picture, its caption, a caption and a picture
with one mistake (an object of another colour or shape, two colours swapped, an object fewer, more or twice, another
relation; in pictures also an object partly in another colour or shape, or touching another). Every mistake has been
checked against the picture. Pictures get a slight cast, blur and noise. No outside data and no generated pictures.
The first {HELD_OUT} captions of the seed that experiments draw from occur nowhere, neither right nor wrong; all of a
single object are among them.

## Recipe

| | |
|---|---|
| pictures | transformer of 4 layers, width 128, 64×64 pixels in patches of 8 |
| captions | transformer of 2 layers, width 128, one token per word |
| loss | symmetric contrastive over 2 × {training.batch_size} pictures and captions, mistakes among the negatives |
| training | {training.steps} steps, AdamW {training.learning_rate} one-cycle, weight decay \
{training.weight_decay}, seed {training.seed}, bfloat16 |
| last loss | {training.loss:.4f} (mean of the last 200 steps) |
| time | {training.minutes:.0f} minutes on two busy CPU cores |

```
{training.command}
```

The same seed gives the same samples and the same order of batches; weights agree between machines up to rounding.

## Worth

`python -m tools.tiny_models.clip_card` measures all of it again.

Captions that training never saw, with fresh pictures. Among {AMONG} captions, the picture's own scores highest for
{measured.retrieved:.1%} of the pictures. The picture's caption scores above the same caption with a mistake:

| mistake | share | pictures |
|---|---|---|
{caught}

Generated pictures, validation prompts: mean over prompts of Spearman's correlation between this score and an exact
reward among the prompt's pictures, with a 95% interval over prompts.

| cache | reward | correlation | interval | prompts |
|---|---|---|---|---|
{agreed}

## Limits

It knows the words of the shapes world and nothing else. It looks for objects and relations, so clean and smeared
paint differ less to it than to `shapes_fidelity`. Its licence is the project's.
"""


def write_card(folder: Path, caches: list[Path]) -> Measured:
    """Measure and write ``README.md`` beside the weights; returns what was measured."""
    measured = measure(folder, caches)
    megabytes = (folder / CHECKPOINT).stat().st_size / 1e6
    (folder / "README.md").write_text(clip_card(ClipTraining.load(folder), measured, megabytes))
    return measured


def main(
    folder: Annotated[Path, typer.Argument(help="folder that train_clip wrote")] = CLIP,
    cache: Annotated[list[Path], typer.Option(help="cache with generated pictures; may be repeated")] = [  # noqa: B006
        Path("data_cache/quickstart"),
        Path("data_cache/quickstart_sd3"),
        Path("data_cache/shapes_full"),
    ],
) -> None:
    """Measure the small CLIP and write its card."""
    write_card(folder, cache)
    print((folder / "README.md").read_text())


if __name__ == "__main__":
    typer.run(main)
