"""The errors that users see: one sentence each, naming the value, what was allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProbeLabError(Exception):
    """Base of every error that the command line prints as one line (exit code 2)."""


class ConfigError(ProbeLabError):
    """The experiment file or an override is not valid."""


class CacheError(ProbeLabError):
    """A cache cannot be read, written or resumed."""


class CaptureError(ProbeLabError):
    """A tap, a step or a pipeline cannot be captured."""


class ScoreError(ProbeLabError):
    """An evaluator cannot score, or its scores are missing or not finite."""


class DataError(ProbeLabError):
    """The data module cannot make batches from this cache (empty split, missing arrays)."""


class ProbeError(ProbeLabError):
    """A probe cannot be built, loaded or applied."""


class SweepError(ProbeLabError):
    """A sweep cannot be laid out, or none of its cells could be trained."""


class ReportError(ProbeLabError):
    """There is nothing to report, or a results file is not of this version."""


class SelectError(ProbeLabError):
    """Candidates cannot be selected with this pipeline, probe or schedule."""


class TrackingError(ProbeLabError):
    """The tracking server, or file, cannot be brought up to date."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """A ready clause with the nearest allowed name: ``did you mean 'x'? (allowed: a, b, x)``."""
    names = sorted(allowed)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}(allowed: {', '.join(names) or 'none'})"
