"""The commands that errors name: `probe-lab generate` or `score` for the cache that a cell reads."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import ConfigError
from probe_lab.runs.identity import other_images

_OF_PROBES = ("model", "step", "taps", "scalars")


@dataclass(frozen=True)
class Advice:
    """Commands for the cache of ``cell``: ``words`` are an experiment with overrides, and ``base`` is what they load.

    That is what the command line asked for; or, where the cell reads another cache, the experiment file of that
    cache's name, if there is one.
    """

    words: tuple[str, ...]
    base: Experiment
    cell: Experiment

    @classmethod
    def of(cls, cell: Experiment) -> Advice:
        words = cell.asked or (cell.name,)
        base = (_loaded(words) if cell.asked else None) or cell
        if base.cache_folder != cell.cache_folder:
            name = cell.cache_folder.name
            own = _loaded((name,))
            if own is not None and own.cache_folder.name == name:
                return cls((name,), own, cell)
        return cls(words, base, cell)

    @property
    def other_backbone(self) -> bool:
        """Whether ``base`` captures taps of a model that is not the cell's."""
        return self.base.backbone != self.cell.backbone

    def generate(self, changes: Sequence[str] = ()) -> str:
        """The command that makes the cell's cache, or with ``changes`` another one of the same images."""
        return self._command("generate", [*self._differing(changes), *changes])

    def score(self) -> str:
        """The command that scores the previews that the cell reads."""
        if self.base.cache_folder == self.cell.cache_folder and self.words == self.cell.asked:
            return shlex.join(["probe-lab", "score", *self.words])
        own, base = self.cell.probe, self.base.probe
        pairs = {f"probe.{key}": (getattr(own, key), getattr(base, key)) for key in _OF_PROBES}
        changes = [_override(key, value) for key, (value, other) in pairs.items() if value != other]
        return self._command("score", [*self._differing(()), *changes, "sweep=[]"])

    def _differing(self, changes: Sequence[str]) -> list[str]:
        """What decides the cell's images and their place, where ``base`` has another value and ``changes`` none."""
        told = {key: value for key, (_, value) in other_images(self.base, self.cell).items()}
        backbone = self.cell.backbone
        if "backbone" in told and not backbone.name:
            told["backbone"] = f"{{family: {backbone.family}, path: {backbone.path}}}"
        if self.base.cache_folder.name != self.cell.cache_folder.name:
            told["cache.name"] = self.cell.cache_folder.name
        if self.base.cache.root != self.cell.cache.root:
            told["cache.root"] = self.cell.cache.root
        return [_override(key, value) for key, value in told.items() if key not in _keys(changes)]

    def _command(self, verb: str, changes: Sequence[str]) -> str:
        name, *overrides = self.words
        said = _keys(changes)
        kept = [
            text
            for text in overrides
            if not text.startswith("sweep") and not {text.partition("=")[0], text.partition(".")[0]} & said
        ]
        return shlex.join(["probe-lab", verb, name, *kept, *changes])


def _loaded(words: Sequence[str]) -> Experiment | None:
    """None where there is no such file, or none that can be read: nothing but an advice depends on it."""
    name, *overrides = words
    try:
        return load_experiment(name, overrides)
    except ConfigError:
        return None


def _keys(changes: Collection[str]) -> set[str]:
    return {text.partition("=")[0] for text in changes}


def _override(key: str, value: object) -> str:
    """``key=value`` as the command line reads it."""
    text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
    return f"{key}={text.lower() if isinstance(value, bool) else text}"
