"""Probes applied to test samples of another step, tap or cache, beside the ordinary results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe_lab.cache import Cache
from probe_lab.errors import ProbeError
from probe_lab.probes.applied_elsewhere import ProbeReading, predict_at, refusal
from probe_lab.probes.checkpoint import load_probe
from probe_lab.probes.probe import Probe
from probe_lab.report.analysis.chosen import main_slice
from probe_lab.report.analysis.intervals import by_prompt, value_of
from probe_lab.report.analysis.results import VARIANT, Results, Value
from probe_lab.report.layout.style import evaluator_label
from probe_lab.runs import DESCRIPTION, WEIGHTS

MOST_IMAGES = 16_000
"""Images that go through a probe for one figure, all fields together: about five seconds on two cores."""

TapMapping = tuple[tuple[str, str], ...]
"""Pairs of a probe's tap and the tap of the cache that it is given."""


@dataclass(frozen=True)
class AppliedValue:
    """``value``, or the ``reason`` why there is none; ``home`` where it is the ordinary result."""

    value: Value | None = None
    reason: str = ""
    home: bool = False


@dataclass(frozen=True)
class World:
    """One experiment with its cache, and the test samples (sample_id, prompt_id, target) of its evaluator."""

    name: str
    results: Results
    cache: Cache
    evaluator: str
    test: pd.DataFrame

    def cell(self, step: int, taps: str) -> str | None:
        """The first training seed of the main slice at a place."""
        return cells_of(self.results).get((step, taps))


@dataclass(frozen=True)
class AppliedProbe:
    """One probe at one place: ``cell`` reads ``reads`` at ``step``."""

    cell: str
    step: int
    reads: TapMapping


class Answers:
    """The results of probes of ``source`` on the test samples of ``target``, each array being read once.

    ``share`` is the number of fields that ``MOST_IMAGES`` has to do for; ``sampled`` the prompts that this left.
    """

    def __init__(self, source: World, target: World, requests: Sequence[AppliedProbe], share: int = 0) -> None:
        self._source, self._target = source, target
        self._found: dict[AppliedProbe, AppliedValue] = {}
        unseen = target.test if source is target else _unseen(source, target)
        away = [request for request in dict.fromkeys(requests) if source is not target or not self._home(request)]
        probes = {cell: _loaded(source, cell) for cell in dict.fromkeys(request.cell for request in away)}
        jobs: dict[int, dict[AppliedProbe, ProbeReading]] = {}
        for request in away:
            probe = probes[request.cell]
            reason = probe if isinstance(probe, str) else self._refusal(probe, request, unseen)
            if reason:
                self._found[request] = AppliedValue(reason=reason)
            elif isinstance(probe, Probe):
                jobs.setdefault(request.step, {})[request] = ProbeReading(probe, dict(request.reads))
        test = spread_out(unseen, MOST_IMAGES // max(share, sum(map(len, jobs.values())), 1))
        prompts = unseen["prompt_id"].nunique()
        self.sampled = (test["prompt_id"].nunique() if jobs else prompts, prompts)
        for step, wanted in jobs.items():
            predictions = predict_at(target.cache, step, list(wanted.values()), test["sample_id"].to_numpy())
            for (request, job), prediction in zip(wanted.items(), predictions, strict=True):
                column = job.probe.spec.evaluators.index(source.evaluator)
                self._found[request] = AppliedValue(within(test.assign(prediction=prediction[:, column])))

    def field(self, request: AppliedProbe, home: bool) -> AppliedValue:
        """The ordinary result ``home``, as the cell's own predictions have it."""
        if home:
            return AppliedValue(
                within(self._source.results.predictions(request.cell, self._source.evaluator)), home=True
            )
        return self._found[request]

    def _home(self, request: AppliedProbe) -> bool:
        taps = "+".join(tap for tap, _ in request.reads)
        itself = all(tap == other for tap, other in request.reads)
        return itself and self._source.cell(request.step, taps) == request.cell

    def _refusal(self, probe: Probe, request: AppliedProbe, test: pd.DataFrame) -> str:
        if test.empty:
            return "all its test prompts were seen in training"
        if self._source.evaluator not in probe.spec.evaluators:
            return f"the probe does not predict {evaluator_label(self._source.evaluator)}"
        return refusal(probe.spec, self._target.cache, request.step, dict(request.reads))


def spread_out(test: pd.DataFrame, images: int) -> pd.DataFrame:
    """About ``images`` rows of ``test`` at most: all seeds of prompts at even distances, ten prompts at least."""
    prompts = test["prompt_id"].unique()
    kept = max(10, images * len(prompts) // max(len(test), 1))
    if kept >= len(prompts):
        return test
    chosen = prompts[np.linspace(0, len(prompts) - 1, kept).round().astype(int)]
    return test[test["prompt_id"].isin(chosen)].reset_index(drop=True)


def within(table: pd.DataFrame) -> Value:
    """SRCC within prompts of ``table`` (prompt_id, target, prediction)."""
    return value_of(by_prompt(table, "srcc_within")[1])


def _loaded(world: World, cell: str) -> Probe | str:
    finished = world.results.trained[cell]
    finished.require(DESCRIPTION, WEIGHTS)
    try:
        return load_probe(finished.folder)
    except ProbeError:
        return "its probe cannot be loaded: no weights, or those of another version"


def _unseen(source: World, target: World) -> pd.DataFrame:
    """Test samples of ``target`` whose prompts ``source`` did not train or validate on."""
    texts = [
        each.cache.samples.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"] for each in (source, target)
    ]
    seen = set(texts[0][~texts[0].index.isin(source.test["prompt_id"])])
    return target.test[~target.test["prompt_id"].map(texts[1]).isin(seen)].reset_index(drop=True)


def cells_of(results: Results) -> dict[tuple[int, str], str]:
    """(step, taps) -> the cell of the first training seed, of the one training that most places have."""
    model, loss, extra = main_slice(results).iloc[0][["model", "loss", "extra"]]
    cells = results.cells
    cells = cells[(cells["model"] == model) & (cells["loss"] == loss) & (cells["extra"] == extra)]
    cells = cells.sort_values("seed", kind="stable").drop_duplicates(VARIANT)
    return {(int(s), str(t)): str(c) for s, t, c in zip(cells["step"], cells["taps"], cells["cell"], strict=True)}


def itself(taps: str) -> TapMapping:
    return tuple((tap, tap) for tap in taps.split("+"))
