"""Whether cells can be trained from what there is: caches with what they read, scores, text and devices."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from probe_lab.cache import Cache, Manifest
from probe_lab.cache.manifest import manifest_path
from probe_lab.config import BACKBONE, Experiment, ProbeConfig
from probe_lab.data.scalar_table import scalar_table
from probe_lab.engines import engine_of
from probe_lab.errors import CacheError, ConfigError, ScoreError
from probe_lab.probes.kinds import ATTENTION, kind_of, reads_text
from probe_lab.sweep.advice import Advice
from probe_lab.sweep.grid import Cell

_SHOWN = 5


def require_all(cells: Sequence[Cell]) -> None:
    """Refuse cells that cannot be trained from what there is.

    Raises:
        CacheError: a cache, an array, text embeddings or a picture judge are not there, or are not those that were
            written.
        ScoreError: scores of images or previews are not there, or are not those that were written.
        ConfigError: fewer devices than ``trainer.devices``, or tokens that are not those of the attention maps.
        ProbeError: a picture judge does not know a step or an evaluator.
    """
    require_arrays(cells)
    _require_whole(cells)
    _require_scores(cells)
    require_previews(cells)
    _require_text(cells)
    _require_judges(cells)
    _require_devices(cells)


def _require_whole(cells: Sequence[Cell]) -> None:
    """Looks at every shard once, before workers read them; says on stderr where a cache is not complete."""
    for folder in dict.fromkeys(cell.experiment.cache_folder for cell in cells):
        cache = Cache(folder)
        cache.require_whole()
        done, count = len(cache.complete_samples), len(cache.samples)
        if done < count:
            print(
                f"{done} of {count} samples of {folder} are used, the others lie in shards that are not complete: "
                "`probe-lab generate` resumes there",
                file=sys.stderr,
            )


def _require_scores(cells: Sequence[Cell]) -> None:
    needed: dict[Path, dict[str, None]] = {}
    for cell in cells:
        needed.setdefault(cell.experiment.cache_folder, {}).update(dict.fromkeys(cell.experiment.probe_evaluators))
    for folder, evaluators in needed.items():
        cache = Cache(folder)
        for evaluator in evaluators:
            cache.scores(evaluator)


def _require_text(cells: Sequence[Cell]) -> None:
    needed: dict[tuple[Path, str], None] = {}
    for cell in cells:
        experiment = cell.experiment
        if reads_text(experiment.probe):
            if experiment.text.encoder != BACKBONE:
                _require_no_maps(experiment.probe, experiment.text.encoder)
            needed[experiment.cache_folder, experiment.text.encoder] = None
    for folder, encoder in needed:
        Cache(folder).text_rows(encoder)


def _require_no_maps(probe: ProbeConfig, encoder: str) -> None:
    """Maps are channels of the backbone's tokens; another encoder cuts a prompt into tokens of its own."""
    maps = [tap for tap in probe.taps if tap.endswith(ATTENTION)]
    if maps and probe.text == "tokens" and kind_of(probe.model).text == "chosen":
        raise ConfigError(
            f"'probe.text' is tokens and 'text.encoder' is {encoder}, whose tokens are not those of {maps[0]}: "
            "set probe.text=pooled, or text.encoder=backbone"
        )


def _require_judges(cells: Sequence[Cell]) -> None:
    from probe_lab.training.judge_scores import judged_scores

    reading = {}
    for cell in cells:
        if (probe := cell.experiment.probe).judge:
            place = (cell.experiment.cache_folder, probe.step, cell.experiment.trainer.seed, *probe.evaluators)
            reading[place] = cell.experiment
    for experiment in reading.values():
        judged_scores(experiment, Cache(experiment.cache_folder))


def _require_devices(cells: Sequence[Cell]) -> None:
    """The devices of another engine are on machines that are not known yet."""
    from probe_lab.training.distributed import require_devices

    for cell in cells:
        if engine_of(cell.experiment.engine).shares_machine:
            require_devices(cell.experiment.trainer)


def require_arrays(cells: Sequence[Cell]) -> None:
    """Refuse cells that read a step or a tap that their cache lacks.

    Raises:
        CacheError: there is no cache, or the first step or tap that it lacks; with the ``probe-lab generate`` command.
    """
    by_cache: dict[Path, list[Cell]] = {}
    for cell in cells:
        by_cache.setdefault(cell.experiment.cache_folder, []).append(cell)
    for folder, reading in by_cache.items():
        if not manifest_path(folder).exists():
            advice = Advice.of(reading[0].experiment)
            command = advice.generate(_captured(advice, reading, []) if advice.other_backbone else [])
            raise CacheError(f"there is no cache {folder} yet: run `{command}`, then `probe-lab score` likewise")
        _require_in(Manifest.load(folder), folder, reading)


def require_previews(cells: Sequence[Cell]) -> None:
    """Refuse cells whose cache lacks a score of a preview that they read.

    Raises:
        ScoreError: it was not made, or not for all samples; with the ``probe-lab score`` command.
        CacheError: it cannot be made, there is no such latent of that step.
    """
    by_cache: dict[Path, list[Cell]] = {}
    for cell in cells:
        if cell.experiment.probe.scalars:
            by_cache.setdefault(cell.experiment.cache_folder, []).append(cell)
    for folder, reading in by_cache.items():
        cache, seen = Cache(folder), set()
        for cell in reading:
            probe = cell.experiment.probe
            place = (probe.step, *probe.scalars)
            if place in seen:
                continue
            seen.add(place)
            try:
                scalar_table(cache, probe.step, probe.scalars)
            except ScoreError as error:
                require_latents([cell])
                missing = ", ".join(probe.scalars)
                raise ScoreError(
                    f"{folder} does not hold {missing} at step {probe.step}, which {cell.name} reads: run "
                    f"`{Advice.of(cell.experiment).score()}`"
                ) from error


def require_latents(reading: Sequence[Cell]) -> None:
    """As if the cells read the arrays that previews are decoded from."""
    require_arrays([dataclasses.replace(cell, experiment=_with_latents(cell.experiment)) for cell in reading])


def _with_latents(experiment: Experiment) -> Experiment:
    taps = list(dict.fromkeys([*experiment.probe.taps, *decoded(experiment.probe)]))
    return dataclasses.replace(experiment, probe=dataclasses.replace(experiment.probe, taps=taps))


def decoded(probe: ProbeConfig) -> set[str]:
    """The latents, such as ``x0``, whose previews the probe reads scores of."""
    return {each.array for each in probe.previews}


def _require_in(manifest: Manifest, folder: Path, cells: Sequence[Cell]) -> None:
    steps, taps = _read(cells)
    no_step = [step for step in steps if step not in manifest.captured_steps]
    no_tap = [tap for tap in taps if tap not in manifest.taps]
    if not no_step and not no_tap:
        return
    if no_step:
        held = ", ".join(map(str, manifest.captured_steps))
        what = f"step {no_step[0]} (it has {held})"
        count = sum(no_step[0] in cell.experiment.probe.trained_steps for cell in cells)
    else:
        near = difflib.get_close_matches(no_tap[0], manifest.taps, n=_SHOWN, cutoff=0.0)
        what = f"tap {no_tap[0]} (of its {len(manifest.taps)} the nearest are {', '.join(near)})"
        count = sum(no_tap[0] in cell.experiment.probe.taps for cell in cells)
    advice = Advice.of(cells[0].experiment)
    command = advice.generate([f"cache.name={_free_name(folder)}", *_captured(advice, cells, no_tap)])
    readers = f"{count} cell{'s' if count > 1 else ''} of the sweep read{'s' if count == 1 else ''}"
    raise CacheError(
        f"the cache {folder} lacks {what}, which {readers}; nothing is added to a cache, so "
        f"`{command}` makes another one: score and sweep with its cache.name too"
    )


def _read(cells: Sequence[Cell]) -> tuple[list[int], list[str]]:
    """The steps and the taps that cells read."""
    steps = sorted({step for cell in cells if cell.arrays for step in cell.experiment.probe.trained_steps})
    return steps, list(dict.fromkeys(tap for cell in cells for tap in cell.experiment.probe.taps))


def _captured(advice: Advice, cells: Sequence[Cell], lacking: Sequence[str]) -> list[str]:
    """Overrides of what is captured; what the experiment names already is generated without saying so again. Taps that
    it names of another backbone are of no use."""
    capture, (steps, taps) = advice.base.capture, _read(cells)
    changes = []
    if set(steps) - set(capture.steps):
        changes.append(f"capture.steps=[{','.join(map(str, sorted({*capture.steps, *steps})))}]")
    if advice.other_backbone:
        changes.append(f"capture.taps=[{','.join(taps)}]")
    elif further := [tap for tap in lacking if tap not in capture.taps]:
        changes.append(f"capture.taps=[{','.join([*capture.taps, *further])}]")
    return changes


def _free_name(folder: Path) -> str:
    number = 2
    while (folder.parent / f"{folder.name}_{number}").exists():
        number += 1
    return f"{folder.name}_{number}"
