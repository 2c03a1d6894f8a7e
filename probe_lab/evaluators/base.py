"""What an evaluator is, and the registry that makes one from its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from PIL.Image import Image
from torch import Tensor

from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import ConfigError
from probe_lab.registry import Registry

Prepared = Image | Tensor
"""What an evaluator makes of a decoded picture before it scores it."""


class Evaluator(ABC):
    """Scores finished images against their prompts; deterministic, whatever the batch that an image comes in.

    Attributes:
        name: what configs, score files and reports call it.
        family: evaluators of one family share work: a segmentation, a loaded model.
        version: raised whenever the same image may get another score.
        checkpoint_sha256: of the weights; "none" when there are none.
        preprocessing: how the image is prepared, in words. Evaluators with the same words prepare it alike.
        has_model: whether it loads weights; those without may be scored by several processes.
    """

    name: str
    family: str
    version: str
    preprocessing: str
    checkpoint_sha256: str = "none"
    has_model: bool = False

    @abstractmethod
    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """float32 [n] on the CPU, one per (image, prompt); any PIL mode and size.

        ScoreError for what it cannot score.
        """

    def unscorable(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts that it cannot score whatever the image is, in their order; none unless overridden."""
        return []

    def prepare(self, image: Image) -> Prepared:
        """What ``score_family`` is given of an image; the image itself unless a subclass makes it smaller."""
        return image

    def score_family(
        self, members: Sequence[Evaluator], inputs: Sequence[Prepared], prompts: Sequence[str]
    ) -> dict[str, Tensor]:
        """Scores of ``members``, all of this evaluator's family, by name; ``inputs`` are what ``prepare`` made.

        Override to do their common work once.
        """
        images = cast(Sequence[Image], inputs)  # whoever prepares something else overrides this
        return {member.name: member.score(images, prompts) for member in members}

    def score_captions(
        self, members: Sequence[Evaluator], inputs: Sequence[Prepared], captions: Sequence[Sequence[str]]
    ) -> dict[str, Tensor]:
        """Scores of each picture under several captions, float32 [n, C] by name of ``members``.

        ``captions[i]`` are those of ``inputs[i]``, C for each; the rest is as in ``score_family``. Override to do what
        depends on the picture alone once.
        """
        columns = [self.score_family(members, inputs, list(column)) for column in zip(*captions, strict=True)]
        return {member.name: torch.stack([column[member.name] for column in columns], 1) for member in members}

    def release(self) -> None:  # noqa: B027  most have no model
        """Give back the memory of the model, if one is loaded; the next score loads it again."""

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


@dataclass(frozen=True)
class Settings:
    """What a factory may need: where the model is, and how it runs (``scoring`` of an experiment)."""

    name: str
    model: EvaluatorModel = field(default_factory=EvaluatorModel)
    scoring: Scoring = field(default_factory=Scoring)


@dataclass(frozen=True)
class Card:
    """What ``probe-lab evaluators`` says of one.

    ``weights`` is where its checkpoint comes from and ``file`` the name that it has there; both empty when it needs
    none.
    """

    measures: str
    range: str
    model: str = "none"
    licence: str = ""
    weights: str = ""
    file: str = ""


Factory = Callable[[Settings], Evaluator]


@dataclass(frozen=True)
class Catalogued:
    """What makes an evaluator, and what is said of it."""

    factory: Factory
    card: Card


def _own(found: object) -> Catalogued | None:
    """A class of the user's own, described by the first line of its docstring."""
    if not (isinstance(found, type) and issubclass(found, Evaluator)):
        return None
    return Catalogued(found, Card((found.__doc__ or "").strip().partition("\n")[0].rstrip("."), ""))


EVALUATORS: Registry[Catalogued] = Registry(
    "evaluator", Catalogued, "evaluators", {}, made=_own, wanted="a subclass of Evaluator"
)
"""Filled by the catalogue."""


def register(name: str, factory: Factory, card: Card | None = None) -> None:
    """Make ``create(name)`` call ``factory``, which loads what it needs only when it scores.

    ConfigError when the name is taken, or holds an "@" or ":".
    """
    if "@" in name:
        raise ConfigError(f"the evaluator '{name}' cannot be registered: '@' parts a name from a label, leave it out")
    EVALUATORS.register(name, Catalogued(factory, card or Card(measures="", range="")))


def create(name: str, scoring: Scoring | None = None) -> Evaluator:
    """A ready evaluator, of the catalogue or of ``module:class``. ConfigError for an unknown name (with the nearest).

    ``clip_score@large`` is a second ``clip_score``, with the entry ``clip_score@large`` of ``scoring.models``.
    """
    factory, scoring = EVALUATORS.get(_kind(name)).factory, scoring or Scoring()
    return factory(Settings(name, scoring.models.get(name, EvaluatorModel()), scoring))


def available() -> tuple[str, ...]:
    """The names that ``create`` knows without a module, sorted."""
    return tuple(sorted(EVALUATORS.names()))


def is_known(name: str) -> bool:
    """Whether ``create`` can make it, labelled or not; one of a module only once that is imported."""
    return EVALUATORS.loaded(_kind(name)) is not None


def card(name: str) -> Card:
    """What is known of an evaluator, labelled or not. ConfigError for an unknown name."""
    return EVALUATORS.get(_kind(name)).card


def _kind(name: str) -> str:
    return name.partition("@")[0]


def families(evaluators: Sequence[Evaluator]) -> list[list[Evaluator]]:
    """The evaluators, those of one family together, in the order of their first members."""
    found: dict[str, list[Evaluator]] = {}
    for evaluator in evaluators:
        found.setdefault(evaluator.family, []).append(evaluator)
    return list(found.values())


def prepared(evaluators: Sequence[Evaluator], image: Image) -> dict[str, Prepared]:
    """What the evaluators make of an image, by their ``preprocessing``: alike ones share it."""
    found: dict[str, Prepared] = {}
    for evaluator in evaluators:
        if evaluator.preprocessing not in found:
            found[evaluator.preprocessing] = evaluator.prepare(image)
    return found


def score_all(evaluators: Sequence[Evaluator], images: Sequence[Image], prompts: Sequence[str]) -> dict[str, Tensor]:
    """Scores of every evaluator by name, float32 [n] each; each family does its common work once.

    Models stay loaded: for pictures that come in many batches.
    """
    inputs = [prepared(evaluators, image) for image in images]
    scores: dict[str, Tensor] = {}
    for members in families(evaluators):
        first = members[0]
        scores |= first.score_family(members, [each[first.preprocessing] for each in inputs], prompts)
    return {evaluator.name: scores[evaluator.name] for evaluator in evaluators}


def score_all_captions(
    evaluators: Sequence[Evaluator], inputs: Sequence[Mapping[str, Prepared]], captions: Sequence[Sequence[str]]
) -> Tensor:
    """Scores float32 [n, evaluators, C] of pictures as ``prepared`` made them, each under its C captions."""
    scores: dict[str, Tensor] = {}
    for members in families(evaluators):
        first = members[0]
        scores |= first.score_captions(members, [each[first.preprocessing] for each in inputs], captions)
    return torch.stack([scores[evaluator.name] for evaluator in evaluators], 1).float()
