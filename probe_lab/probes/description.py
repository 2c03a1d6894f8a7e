"""``probe.json`` as it is read: every value checked before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from probe_lab.config import BACKBONE, Head
from probe_lab.data.scalars import Scalar
from probe_lab.errors import ConfigError, ProbeError
from probe_lab.probes.kinds import is_buildable
from probe_lab.probes.spec import ProbeSpec, TextMode

FORMAT_VERSION = 1
JUDGE_VERSION = 2
"""Of probes that have a picture judge: those of version 1 read other answers of it."""
LARGEST_SIZE, LARGEST_DEPTH = 2**20, 64
"""Of a side, a width or a number of channels or tokens, and of levels: far above what anybody trains."""

_Check = tuple[Callable[[Any], bool], str]


def _whole(least: int, most: int) -> _Check:
    return lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}"


def _choice(names: tuple[str, ...]) -> _Check:
    return lambda value: value in names, f"one of {', '.join(names)}"


def _texts(least: int) -> _Check:
    def check(value: Any) -> bool:
        return _is_texts(value) and len(value) >= least

    return check, f"a list of {'one or more ' if least else ''}names"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, str) and entry for entry in value)


def _are_shapes(value: Any) -> bool:
    fits, _ = _whole(1, LARGEST_SIZE)
    return isinstance(value, dict) and all(
        isinstance(shape, list) and len(shape) == 3 and all(map(fits, shape)) for shape in value.values()
    )


def _are_steps(value: Any) -> bool:
    fits, _ = _whole(1, LARGEST_SIZE)
    return isinstance(value, list) and all(map(fits, value)) and len(set(value)) == len(value)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1


_TEXT: _Check = (lambda value: isinstance(value, str), "a text")
_SIZE, _SIZE_OR_NONE = _whole(1, LARGEST_SIZE), _whole(0, LARGEST_SIZE)
_SPEC: Mapping[str, _Check] = {
    "kind": (
        lambda value: isinstance(value, str) and is_buildable(value),
        "a model that is known here (import the module of your own first)",
    ),
    "taps": (_are_shapes, f"a mapping from taps to three sizes from 1 to {LARGEST_SIZE}"),
    "evaluators": _texts(1),
    "step": _whole(1, LARGEST_SIZE),
    "total_steps": _whole(1, LARGEST_SIZE),
    "text": _choice(get_args(TextMode)),
    "text_dim": _SIZE_OR_NONE,
    "token_dim": _SIZE_OR_NONE,
    "tokens": _SIZE_OR_NONE,
    "width": _SIZE,
    "depth": _whole(1, LARGEST_DEPTH),
    "embedding": _SIZE,
    "dropout": (_is_share, "a number from 0 to below 1"),
    "aligned": (lambda value: isinstance(value, bool), "true or false"),
    "backbone": _TEXT,
    "cache": _TEXT,
    "text_encoder": _TEXT,
    "scalars": _texts(0),
    "head": _choice(get_args(Head)),
    "steps": (_are_steps, "a list of different steps"),
    "judge": (lambda value: isinstance(value, bool), "true or false"),
}
_OLDER = {"text_encoder": BACKBONE, "scalars": [], "head": "plain", "steps": [], "judge": False}
"""There were no others when older probes were trained."""


def version_of(judge: bool) -> int:
    """The format version of a probe's description, by whether the probe has a picture judge."""
    return JUDGE_VERSION if judge else FORMAT_VERSION


def spec_of(path: Path, content: Any) -> ProbeSpec:
    """The spec in the ``content`` of ``path``.

    Raises:
        ProbeError: another format version, a value that is missing, unknown, of another type or beyond its bounds, or a
            probe that cannot be built.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    spec = content.get("spec") if isinstance(content, dict) else None
    readable = version_of(bool(spec.get("judge")) if isinstance(spec, dict) else False)
    if version != readable or isinstance(version, bool):
        raise ProbeError(
            f"{path} has format version {version} and this probe_lab reads {readable}: "
            "use the probe_lab that wrote it, or train the cell again"
        )
    for name in ("weights_sha256", "code_version"):
        _require(path, name, content.get(name), _TEXT)
    values = content.get("spec")
    if isinstance(values, dict):
        values = _OLDER | values
    if not isinstance(values, dict) or set(values) != set(_SPEC):
        wrong = sorted(set(values) ^ set(_SPEC)) if isinstance(values, dict) else ["spec"]
        raise ProbeError(f"{path} lacks or has too much: {', '.join(wrong)}; train the cell again")
    for name, check in _SPEC.items():
        _require(path, name, values[name], check)
    for step in (values["step"], *values["steps"]):
        if step > values["total_steps"]:
            raise ProbeError(f"{path} has the step {step} of {values['total_steps']}: train the cell again")
    if values["steps"] and values["step"] not in values["steps"]:
        raise ProbeError(
            f"{path} has the step {values['step']}, which is none of its steps {values['steps']}: train the cell again"
        )
    try:
        for scalar in values["scalars"]:
            Scalar.parse(scalar)
    except ConfigError as error:
        raise ProbeError(f"{path} has a scalar that is none ({error}): train the cell again") from error
    taps = {tap: (shape[0], shape[1], shape[2]) for tap, shape in values["taps"].items()}
    lists = {name: tuple(values[name]) for name in ("evaluators", "scalars", "steps")}
    return ProbeSpec(**values | {"taps": taps} | lists)


def _require(path: Path, name: str, value: Any, check: _Check) -> None:
    fits, allowed = check
    if not fits(value):
        raise ProbeError(f"{path} has {name}={_short(value)}, which has to be {allowed}: train the cell again")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
