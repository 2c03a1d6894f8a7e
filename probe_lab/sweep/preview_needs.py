"""Which scores of previews an experiment's cells read, and how they are made before a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from probe_lab.cache import Manifest
from probe_lab.cache.layout import AskedPreviews, PreviewOf
from probe_lab.config import Experiment
from probe_lab.data.scalars import Scalar
from probe_lab.errors import ProbeLabError
from probe_lab.probes.kinds import kind_of
from probe_lab.progress import Watching
from probe_lab.sweep.grid import cells, single_cell
from probe_lab.sweep.needs import decoded, require_latents


def make_previews(experiment: Experiment, *, watching: Watching) -> Iterator[str]:
    """Score the previews that cells of the experiment read, and tell what was done, a line each.

    Those that only baselines read are tried: images have their scores by now, and a sweep may yet decode by itself.
    Errors as in ``asked_previews`` and ``score_previews``.
    """
    asked = asked_previews(experiment)
    yield from _made(experiment, asked, watching)
    try:
        yield from _made(experiment, baseline_previews(experiment, but=asked), watching)
    except ProbeLabError as error:
        yield f"previews of x0_preview are left to the sweep: {error}"


def _made(experiment: Experiment, asked: AskedPreviews, watching: Watching) -> Iterator[str]:
    if not asked:
        return
    from probe_lab.previews.preview_scores import (
        score_previews,  # with torch and diffusers, which a sweep's plan is without
    )

    with watching("previews", "scores") as update:
        lines = score_previews(experiment, asked, on_progress=update)
    yield from (f"{line} ({experiment.cache_folder / 'previews'})" for line in lines)


def asked_previews(experiment: Experiment) -> AskedPreviews:
    """What the cells of an experiment, and its own probe where it can be made, read of the experiment's cache.

    Raises:
        ConfigError, SweepError: as in ``lay_out``.
        CacheError: the cache has no such latent of such a step; with the ``probe-lab generate`` command.
    """
    if not experiment.probe.scalars and not _sweeps_probes(experiment):
        return {}
    reading = [cell for cell in cells(experiment) if cell.experiment.probe.scalars]
    here = [cell for cell in reading if cell.experiment.cache_folder == experiment.cache_folder]
    if here:
        require_latents(here)
    probe = experiment.probe
    if experiment.sweep and kind_of(probe.model).reads_scalars and probe.scalars:
        held = Manifest.load(experiment.cache_folder).keys()
        here += cells(single_cell(experiment)) if {f"{probe.step}/{tap}" for tap in decoded(probe)} <= set(held) else ()
    return _by_place((cell.experiment.probe.step, each) for cell in here for each in cell.experiment.probe.previews)


def baseline_previews(experiment: Experiment, *, but: AskedPreviews) -> AskedPreviews:
    """What ``x0_preview`` and ``tiny_preview`` cells read of the experiment's cache, and would else decode while a
    sweep waits, ``but`` for what is made already.

    Cells that cannot be trained are passed over, which training says: the cache holds no ``x0`` of their step, or
    scores of theirs were imported, and who gave them sees no other pictures. ConfigError and SweepError as in
    ``lay_out``.
    """
    if not kind_of(experiment.probe.model).decodes and not _sweeps_probes(experiment):
        return {}
    from probe_lab.evaluators.scoring_run import is_given  # only `score` needs it

    folder = experiment.cache_folder
    held = set(Manifest.load(folder).keys())
    found: list[tuple[int, Scalar]] = []
    for own in (cell.experiment for cell in cells(experiment)):
        step, names = own.probe.step, own.probe_evaluators
        kind = kind_of(own.probe.model)
        here = kind.decodes and own.cache_folder == folder and f"{step}/x0" in held
        if here and not any(is_given(folder, name, own.scoring) for name in names):
            there = but.get(PreviewOf(step, kind.preview), ())
            found += [(step, Scalar(kind.preview, name)) for name in names if name not in there]
    return _by_place(found)


def _sweeps_probes(experiment: Experiment) -> bool:
    return any(key.startswith("probe") for grid in experiment.sweep for key in grid)


def _by_place(reading: Iterable[tuple[int, Scalar]]) -> AskedPreviews:
    found: dict[PreviewOf, dict[str, None]] = {}
    for step, each in reading:
        found.setdefault(PreviewOf(step, each.latent), {})[each.evaluator] = None
    return {of: tuple(names) for of, names in sorted(found.items())}
