"""What patterns and named sets of taps stand for: taps that the experiment captures."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from probe_lab.cache.layout import PLACELESS
from probe_lab.config import Experiment
from probe_lab.errors import SweepError, nearest

PAPER = "paper"
"""The set that is always there: what the two papers read of the backbone."""
_NEAREST = 5


@dataclass(frozen=True)
class TapList:
    """One value of ``probe.taps``; ``label`` is the name of the set that it is."""

    taps: list[str]
    label: str = ""


class TapNames:
    """Stands in for names with the taps of ``experiment``.

    A pattern matches what is captured: ``capture.taps`` where that lists taps one by one; else, where it has patterns
    itself, what the cache holds; and before there is a cache, what the backbone has, whose weights are not read.
    Matches are in the order of blocks, numbers by value, whichever it was.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._sets: Mapping[str, tuple[str, ...]] = experiment.sets

    def values(self, item: Any) -> list[TapList]:
        """The values of a ``probe.taps`` axis that one entry of it is.

        A tap or a list is one; a pattern is one per match; a set's name is one, all its taps; ``{each: ...}`` is one
        per tap of what follows, ``{all: ...}`` one with all of them.

        Raises:
            SweepError: what names no tap.
        """
        match item:
            case {"each": inner, **rest} if not rest:
                return [TapList([tap]) for tap in self.joined(_listed(inner))]
            case {"all": inner, **rest} if not rest:
                return [TapList(self.joined(_listed(inner)))]
            case dict():
                raise SweepError(f"the sweep over 'probe.taps' holds {item}: write {{each: ...}} or {{all: ...}}")
            case str() if _is_pattern(item):
                return [TapList([tap]) for tap in self._matching(item)]
            case str() if item == PAPER or item in self._sets:
                return [TapList(self.joined([item]), item)]
        return [TapList(self.joined(_listed(item)))]

    def called(self, key: str, content: Any) -> Callable[[str], bool]:
        """Whether a name is that of a set, and ``content``, the value of ``key``, the taps of that set.

        The set is looked up when the answer is asked for: others may have patterns that match nothing.
        """

        def is_called(name: str) -> bool:
            return key == "probe.taps" and (name == PAPER or name in self._sets) and content == self.joined([name])

        return is_called

    def joined(self, items: Iterable[str]) -> list[str]:
        """Taps, patterns and sets as one list of taps, each once, in the order written. SweepError as in ``values``."""
        found: dict[str, None] = {}
        for item in items:
            found |= dict.fromkeys(self._one(str(item)))
        return list(found)

    def _one(self, item: str) -> Sequence[str]:
        if item in self._sets:
            return [tap for part in self._sets[item] for tap in self._without_sets(part)]
        return self._without_sets(item)

    def _without_sets(self, item: str) -> Sequence[str]:
        if item == PAPER:
            return self._paper
        if _is_pattern(item):
            return self._matching(item)
        if "/" not in item and item not in PLACELESS:
            sets = sorted({*self._sets, PAPER, *PLACELESS})
            raise SweepError(f"'{item}' in probe.taps is no tap and no set of sweep.sets: {nearest(item, sets)}")
        return [item]

    def _matching(self, pattern: str) -> list[str]:
        found = [tap for tap in self._captured if fnmatchcase(tap, pattern)]
        if not found:
            near = difflib.get_close_matches(pattern, self._captured, n=_NEAREST, cutoff=0.0)
            raise SweepError(
                f"'{pattern}' in probe.taps matches none of the {len(self._captured)} taps that are captured: "
                f"the nearest are {', '.join(near) or 'none'}"
            )
        return found

    @cached_property
    def _captured(self) -> list[str]:
        wanted = self._experiment.capture.taps
        if wanted and not any(tap == PAPER or _is_pattern(tap) for tap in wanted):
            return sorted(wanted, key=_by_block)
        stored = _stored(self._experiment)
        return sorted(_of_backbone(self._experiment, wanted or ["*"]) if stored is None else stored, key=_by_block)

    @cached_property
    def _paper(self) -> list[str]:
        captured = set(self._experiment.capture.taps) == {PAPER}
        return self._captured if captured else sorted(_of_backbone(self._experiment, [PAPER]), key=_by_block)


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _listed(item: Any) -> list[str]:
    return [item] if isinstance(item, str) else list(item)


def _by_block(tap: str) -> list[tuple[bool, int, str]]:
    """up_blocks.2 before up_blocks.10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", tap)]


def _stored(experiment: Experiment) -> list[str] | None:
    """The taps of the experiment's cache, None before there is one."""
    from probe_lab.cache import Manifest
    from probe_lab.cache.manifest import manifest_path

    folder = experiment.cache_folder
    return list(Manifest.load(folder).taps) if manifest_path(folder).exists() else None


def _of_backbone(experiment: Experiment, wanted: list[str]) -> list[str]:
    """What ``generate`` would capture, from the shapes of the denoiser alone.

    Raises:
        CaptureError: an unknown backbone, or one that is not here.
    """
    from probe_lab.backbones.outline import taps_of_backbone

    return [str(tap) for tap in taps_of_backbone(experiment.backbone, wanted)]
