"""The numbers of the transfer matrices: predictions that exist, and probes applied where they were not trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from probe_lab.cache import Cache
from probe_lab.errors import CacheError
from probe_lab.probes.applied_elsewhere import kind_of
from probe_lab.report.analysis.applied import Answers, AppliedProbe, AppliedValue, World, cells_of, itself, within
from probe_lab.report.analysis.chosen import probes
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import evaluator_label, tap_labels, tap_order

MOST_PLACES = 6
"""Steps or taps on a side of a matrix: every field but the framed ones is a pass over the test split."""


@dataclass(frozen=True)
class Matrix:
    """``fields[i][j]``: trained on ``rows[i]``, tested on ``columns[j]``."""

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    fields: tuple[tuple[AppliedValue, ...], ...]

    def __iter__(self) -> Iterator[tuple[int, int, AppliedValue]]:
        return ((i, j, found) for i, row in enumerate(self.fields) for j, found in enumerate(row))

    @property
    def away(self) -> list[AppliedValue]:
        """What is no ordinary result."""
        return [found for _, _, found in self if not found.home]


@dataclass
class Found:
    """The matrices that could be made, and why others could not."""

    matrices: list[Matrix] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    sampled: list[tuple[int, int]] = field(default_factory=list)  # prompts that probes were applied to, of how many

    def add(self, matrix: Matrix) -> None:
        """Keep a matrix that says more than the ordinary results."""
        if any(found.value for found in matrix.away):
            self.matrices.append(matrix)
        else:
            reasons = dict.fromkeys(found.reason for found in matrix.away if found.reason)
            self.skipped.append(
                f"{matrix.title}: nothing fits anything else ({'; '.join(reasons) or 'one place only'})."
            )


def transferred(material: Material) -> Found:
    """All matrices of one experiment, and of those beside it.

    Raises:
        CacheError, ScoreError: a file of the cache is damaged.
        ReportError: the results of an experiment beside are damaged.
    """
    found = Found()
    _evaluators(material, found)
    if material.cache is None:
        found.skipped.append("Steps, taps and backbones: probes are applied to the cache, and the report has none.")
        return found
    evaluator = material.choice.evaluators[0]
    home = next(iter(material.results.seeds(material.choice.best).values()))
    test = material.results.predictions(home, evaluator)
    if test.empty:
        found.skipped.append(
            f"Steps, taps and backbones: the best probe does not predict {evaluator_label(evaluator)}."
        )
        return found
    world = World(material.cache.manifest.backbone, material.results, material.cache, evaluator, test)
    _steps_and_taps(world, material, found)
    _backbones(world, material, found)
    return found


def _evaluators(material: Material, found: Found) -> None:
    results, cache = material.results, material.cache
    cell = next(iter(results.seeds(material.choice.best).values()))
    tables = {name: results.predictions(cell, name) for name in material.choice.evaluators}
    tables = {name: table for name, table in tables.items() if not table.empty}
    known = [*tables, *[name for name in (cache.evaluators() if cache else []) if name not in tables]]
    if len(known) < 2:
        found.skipped.append("Evaluators: only one has scores.")
        return
    targets = {name: table.set_index("sample_id")["target"] for name, table in tables.items()}
    if cache:
        targets |= {name: pd.Series(cache.scores(name)) for name in known if name not in tables}
    fields = [
        tuple(AppliedValue(_against(table, targets[other]), home=other == name) for other in known)
        for name, table in tables.items()
    ]
    labels = [evaluator_label(name) for name in known]
    found.add(Matrix("evaluator", "Evaluators", tuple(labels[: len(tables)]), tuple(labels), tuple(fields)))


def _against(table: pd.DataFrame, target: pd.Series[float]) -> Value:
    """Predictions of one evaluator ranked by the scores of another, where it has any."""
    other = table.assign(target=target.reindex(table["sample_id"]).to_numpy(float)).dropna(subset="target")
    return within(other) if len(other) else Value(np.nan, np.nan, np.nan)


def _steps_and_taps(world: World, material: Material, found: Found) -> None:
    steps = _step_requests(world, material)
    taps = _tap_requests(world, material.choice.step)
    answers = Answers(world, world, [*steps.values(), *taps.values()])
    found.sampled.append(answers.sampled)
    for name, title, plan in (("step", "Steps", steps), ("tap", "Taps", taps)):
        rows, columns = (list(dict.fromkeys(place[side] for place in plan)) for side in (0, 1))
        text = tap_labels([*rows, *columns]) if name == "tap" else {str(step): f"step {step}" for step in columns}
        fields = tuple(tuple(answers.field(plan[row, column], row == column) for column in columns) for row in rows)
        detail = _detail(name, material, world)
        matrix = Matrix(name, f"{title}{detail}", _named(text, rows), _named(text, columns), fields)
        if len(columns) < 2:
            found.skipped.append(f"{title}{detail}: there is one only.")
        else:
            found.add(matrix)


def _detail(name: str, material: Material, world: World) -> str:
    if name == "tap":
        return f" at step {material.choice.step}"
    taps = _main_taps(world, material)
    return f" of {tap_labels([taps])[taps]}"


def _named(text: Mapping[str, str], places: Sequence[str]) -> tuple[str, ...]:
    return tuple(text.get(place, place) for place in places)


def _main_taps(world: World, material: Material) -> str:
    """The tap set whose steps are compared: that of the best probe, else the one at most steps."""
    cells = cells_of(world.results)
    counts: dict[str, int] = {}
    for _, taps in cells:
        counts[taps] = counts.get(taps, 0) + 1
    best = material.choice.best.taps
    return max(counts, key=lambda taps: (counts[taps] > 1 and taps == best, counts[taps], taps))


def _step_requests(world: World, material: Material) -> dict[tuple[str, str], AppliedProbe]:
    taps = _main_taps(world, material)
    cells = {step: cell for (step, its), cell in cells_of(world.results).items() if its == taps}
    columns = thinned(sorted({*cells, *world.cache.manifest.captured_steps}), material.choice.step)
    return {
        (str(row), str(column)): AppliedProbe(cells[row], column, itself(taps))
        for row in columns
        if row in cells
        for column in columns
    }


def _tap_requests(world: World, step: int) -> dict[tuple[str, str], AppliedProbe]:
    """Every probe of a single tap at every tap that any of them could be given."""
    cells = {taps: cell for (at, taps), cell in cells_of(world.results).items() if at == step and "+" not in taps}
    shapes = world.cache.manifest.taps
    rows = [tap for tap in sorted(cells, key=tap_order) if tap in shapes][:MOST_PLACES]
    others = [
        tap
        for tap in sorted(shapes, key=tap_order)
        if tap not in rows and any((kind_of(tap), shapes[tap][0]) == (kind_of(row), shapes[row][0]) for row in rows)
    ]
    columns = [*rows, *others[: MOST_PLACES - len(rows)]]
    return {(row, column): AppliedProbe(cells[row], step, ((row, column),)) for row in rows for column in columns}


def thinned(values: Sequence[int], kept: int) -> list[int]:
    """At most ``MOST_PLACES`` of ascending values, at even distances, ``kept`` among them."""
    if len(values) <= MOST_PLACES:
        return list(values)
    chosen = {values[i] for i in np.linspace(0, len(values) - 1, MOST_PLACES).round().astype(int)}
    if kept in values and kept not in chosen:
        chosen = chosen - {min(chosen, key=lambda value: abs(value - kept))} | {kept}
    return sorted(chosen)


def _backbones(world: World, material: Material, found: Found) -> None:
    worlds, step = [world], material.choice.step
    for name, folder in material.others.items():
        other = _world_beside(name, folder, world.evaluator)
        if isinstance(other, str):
            found.skipped.append(f"Backbones: {name}: {other}.")
        else:
            worlds.append(other)
    if len(worlds) < 2:
        if not material.others:
            found.skipped.append("Backbones: give the report another experiment to stand beside (--beside).")
        return
    names = [each.name for each in worlds]
    names = names if len(set(names)) == len(names) else [each.results.folder.name for each in worlds]
    plan = [
        (f"{name}: {tap_labels([taps])[taps]}", source, AppliedProbe(cell, step, itself(taps)))
        for name, source in zip(names, worlds, strict=True)
        for taps, cell in _at_step(source, step)
    ]
    rows, fields = [], []
    for label, source, request in plan:
        answers = [Answers(source, target, [request], share=len(plan) * len(worlds)) for target in worlds]
        found.sampled += [each.sampled for each in answers]
        rows.append(label)
        fields.append(
            tuple(each.field(request, source is target) for each, target in zip(answers, worlds, strict=True))
        )
    found.add(Matrix("backbone", f"Backbones at step {step}", tuple(rows), tuple(names), tuple(fields)))


def _at_step(world: World, step: int) -> list[tuple[str, str]]:
    """(taps, cell) at one step, in the order of a denoiser."""
    cells = [(taps, cell) for (at, taps), cell in cells_of(world.results).items() if at == step]
    return sorted(cells, key=lambda pair: tap_order(pair[0]))[:MOST_PLACES]


def _world_beside(name: str, folder: Path, evaluator: str) -> World | str:
    """Another experiment with the cache that its cells were trained on, or why it cannot be read."""
    results = load_results(folder)
    if not probes(results):
        return "it holds baselines only, no probe was trained there"
    cell = next(iter(cells_of(results).values()))
    written = results.written(cell)
    if written.get("cache.root") is None:
        return "its cells do not say which cache they were trained on"
    path = Path(str(written["cache.root"])) / str(written.get("cache.name") or written.get("name") or name)
    try:
        cache = Cache(path)
    except CacheError:
        return f"its cache {path} is not here"
    test = results.predictions(cell, evaluator)
    if test.empty:
        return f"its probes do not predict {evaluator_label(evaluator)}"
    return World(cache.manifest.backbone, results, cache, evaluator, test)
