"""Short names of runs: what differs between the cells, so that they can be told apart in a narrow column."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

from probe_lab.console import visible
from probe_lab.runs.configs import Flat, differing, joined

WIDTH = 20
"""Characters of a run's name that a table of MLflow shows."""
_FIRST = ("probe.model", "probe.step", "probe.taps", "probe.loss")
_LAST = ("trainer.seed", "evaluators", "probe.evaluators")
_BARE = {"probe.model", "probe.taps", "probe.loss", "evaluators", "probe.evaluators"}
"""Keys whose values speak for themselves."""
_LONGEST = 120


def run_names(configs: Mapping[str, Flat]) -> dict[str, str]:
    """A short name for each cell by its configuration: ``step 4 · activation · listwise``.

    Where two are alike in their first ``WIDTH`` characters, all begin with the digits at the end of the cell's own
    name, by which `probe-lab compare` knows it.
    """
    keys = [key for key in _FIRST if _varies(key, configs.values())]
    keys += [key for key in differing(list(configs.values())) if key not in keys]
    keys += [key for key in _LAST if _varies(key, configs.values())]
    keys = keys or ["probe.model", "probe.step"]
    texts = {key: _texts_of(key, {config.get(key) for config in configs.values()}) for key in keys}
    names = {
        cell: " · ".join(filter(None, (texts[key][config.get(key)] for key in keys)))[:_LONGEST]
        for cell, config in configs.items()
    }
    if len({name[:WIDTH] for name in names.values()}) == len(names) and all(names.values()):
        return names
    digits = {cell: cell.rpartition("-")[2] for cell in names}
    for length in (4, 8):
        if len({text[:length] for text in digits.values()}) == len(digits):
            break
    return {cell: f"{digits[cell][:length]} {name}".strip() for cell, name in names.items()}


def _varies(key: str, configs: Iterable[Flat]) -> bool:
    return len({config.get(key) for config in configs}) > 1


def _texts_of(key: str, values: Iterable[Hashable]) -> dict[Hashable, str]:
    """Each value of a key in a few words; what is empty says nothing."""
    label = key.rpartition(".")[2]
    shown = _taps_label([value for value in values if isinstance(value, tuple)]) if key == "probe.taps" else _text
    return {
        value: "" if value in ((), "", None) else visible(shown(value) if key in _BARE else f"{label} {shown(value)}")
        for value in values
    }


def _text(value: Hashable) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "yes" if value is True else "no" if value is False else str(joined(value))


def _taps_label(values: list[tuple[Hashable, ...]]) -> Callable[[Hashable], str]:
    """Taps by their kind where that tells them apart, else without the beginning of the path that they share."""
    taps = sorted({str(tap) for value in values for tap in value})
    kinds = [tap.rpartition("/")[2] for tap in taps]
    short = dict(zip(taps, kinds, strict=True))
    if len(set(kinds)) < len(kinds):
        placed = [tap.split(".") for tap in taps if "/" in tap]
        shared = 0
        while len({tuple(path[: shared + 1]) for path in placed}) == 1 and all(
            len(path) > shared + 1 for path in placed
        ):
            shared += 1
        short = {tap: ".".join(tap.split(".")[shared:]) if "/" in tap else tap for tap in taps}
    return lambda value: "+".join(short[str(tap)] for tap in value) if isinstance(value, tuple) else _text(value)
