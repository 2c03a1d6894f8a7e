"""What an evaluator is, and the registry that makes one from its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from PIL.Image import Image
from torch import Tensor

from probe_lab.errors import ConfigError, nearest


class Evaluator(ABC):
    """Scores finished images against their prompts; deterministic, whatever the batch that an image comes in.

    Attributes:
        name: what configs, score files and reports call it.
        family: evaluators of one family share work: a segmentation, a loaded model.
        version: raised whenever the same image may get another score.
        checkpoint_sha256: of the weights; "none" when there are none.
        preprocessing: how the image is prepared, in words.
    """

    name: str
    family: str
    version: str
    checkpoint_sha256: str = "none"
    preprocessing: str

    @abstractmethod
    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """float32 [n] on the CPU, one per (image, prompt); any PIL mode and size.

        ScoreError for what it cannot score.
        """

    def score_family(
        self, members: Sequence[Evaluator], images: Sequence[Image], prompts: Sequence[str]
    ) -> dict[str, Tensor]:
        """Scores of ``members``, all of this evaluator's family, by name.

        Override to do their common work once.
        """
        return {member.name: member.score(images, prompts) for member in members}

    def metadata(self) -> dict[str, str]:
        """What a score depends on beside image and prompt.

        Stored with the scores, which are stale once it differs.
        """
        return {
            "evaluator": self.name,
            "version": self.version,
            "checkpoint_sha256": self.checkpoint_sha256,
            "preprocessing": self.preprocessing,
        }


_FACTORIES: dict[str, Callable[[], Evaluator]] = {}


def register(name: str, factory: Callable[[], Evaluator]) -> None:
    """Make ``create(name)`` call ``factory``, which loads what it needs only then.

    ConfigError when the name is taken.
    """
    if name in _FACTORIES:
        raise ConfigError(f"the evaluator '{name}' is registered twice: give the second one another name")
    _FACTORIES[name] = factory


def create(name: str) -> Evaluator:
    """A ready evaluator. ConfigError for an unknown name (with the nearest)."""
    if name not in _FACTORIES:
        raise ConfigError(f"there is no evaluator '{name}': {nearest(name, _FACTORIES)}")
    return _FACTORIES[name]()


def available() -> tuple[str, ...]:
    """The names that ``create`` knows, sorted."""
    return tuple(sorted(_FACTORIES))


def score_all(evaluators: Sequence[Evaluator], images: Sequence[Image], prompts: Sequence[str]) -> dict[str, Tensor]:
    """Scores of every evaluator by name, float32 [n] each; each family does its common work once."""
    families: dict[str, list[Evaluator]] = {}
    for evaluator in evaluators:
        families.setdefault(evaluator.family, []).append(evaluator)
    scores: dict[str, Tensor] = {}
    for members in families.values():
        scores |= members[0].score_family(members, images, prompts)
    return {evaluator.name: scores[evaluator.name] for evaluator in evaluators}
