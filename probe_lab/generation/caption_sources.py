"""Where captions come from, by the names that ``prompts.source`` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from probe_lab.config.world_sections import Prompts
from probe_lab.errors import ConfigError
from probe_lab.generation.prompt_text import Caption
from probe_lab.registry import Registry

CAPTION_SEED = 1_000_000
"""Experiments draw their captions from other seeds than the tiny backbones' training pictures."""
HUB_SPLIT = "train"
"""That of a hub dataset, where ``prompts.split`` is empty."""


@dataclass(frozen=True)
class PromptSource:
    """A place that has captions.

    Attributes:
        captions: the keys of ``prompts`` and the experiment's seed -> captions in their order, empty and repeated ones
            included.
        needs: what ``prompts.path`` has to name; empty: nothing.
        takes_path: whether ``prompts.path`` may name something.
        is_endless: whether there are always more captions, so that the first new ones are taken, and none are shuffled.
        is_here: whether the captions can be read on this machine, for a plan that does without.
    """

    captions: Callable[[Prompts, int], Iterable[Caption]]
    needs: str = ""
    takes_path: bool = True
    is_endless: bool = False
    is_here: Callable[[Prompts], bool] = lambda prompts: True

    def check(self, prompts: Prompts) -> None:
        """ConfigError where ``prompts.path`` is not what this source takes."""
        if prompts.path and not self.takes_path:
            raise ConfigError(
                f"'prompts.path' is '{prompts.path}' and prompts.source={prompts.source} reads none: "
                "set prompts.source=file or hub, or empty it (prompts.path=)"
            )
        if self.needs and not prompts.path:
            raise ConfigError(f"'prompts.path' is empty: prompts.source={prompts.source} needs {self.needs}")


def _of_shapes(prompts: Prompts, seed: int) -> Iterator[Caption]:
    from probe_lab.shapes.captions import sample_captions

    return map(Caption, sample_captions(CAPTION_SEED + seed))


def _of_file(prompts: Prompts, seed: int) -> list[Caption]:
    from probe_lab.generation.prompt_sources import file_captions

    return file_captions(Path(prompts.path).expanduser(), prompts)


def _of_hub(prompts: Prompts, seed: int) -> list[Caption]:
    from probe_lab.generation.prompt_hub import hub_files
    from probe_lab.generation.prompt_tables import parquet_captions

    files = hub_files(prompts.path, prompts.split or HUB_SPLIT, prompts.revision)
    return [caption for file in files for caption in parquet_captions(file, prompts.column, prompts.per_image)]


def _of_function(function: object) -> PromptSource | None:
    """A function of the user's that gives captions, as texts or with the image that each describes."""
    if not callable(function) or isinstance(function, type):
        return None

    def captions(prompts: Prompts, seed: int) -> Iterator[Caption]:
        for number, caption in enumerate(function(prompts), start=1):
            if not isinstance(caption, str | Caption):
                raise ConfigError(
                    f"caption {number} of prompts.source={prompts.source} is a {type(caption).__name__}: give texts, "
                    "or Captions with the image that they describe"
                )
            yield Caption(caption) if isinstance(caption, str) else caption

    return PromptSource(captions)


SOURCES = Registry(
    "source of prompts",
    PromptSource,
    "prompts",
    {
        "shapes": PromptSource(_of_shapes, takes_path=False, is_endless=True),
        "file": PromptSource(
            _of_file, "a file of prompts", is_here=lambda prompts: Path(prompts.path).expanduser().exists()
        ),
        "hub": PromptSource(_of_hub, "the id of a dataset, owner/name", is_here=lambda prompts: False),
    },
    made=_of_function,
    wanted="a function from the keys of `prompts` to captions, or a PromptSource",
)
