"""Cells, trained by the workers of an engine; those that share arrays over one resident copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from probe_lab.cache.manifest import manifest_path
from probe_lab.config import Engine
from probe_lab.engines import Ended, Pool, WorkerDied, WorkerSpec, deaths_as, engine_of, open_pool
from probe_lab.errors import SweepError
from probe_lab.probes.kinds import kind_of
from probe_lab.resource_errors import one_line
from probe_lab.runs.files import finished_at
from probe_lab.sweep.grid import Cell, group_by_arrays
from probe_lab.sweep.halving import Rungs
from probe_lab.sweep.worker import CellTrainer, CellWorker, Outcome


@contextlib.contextmanager
def cell_outcomes(
    cells: Sequence[Cell],
    folder: Path,
    *,
    engine: Engine,
    workers: int,
    trainer: CellTrainer,
    rungs: Rungs | None = None,
) -> Iterator[Iterator[Outcome]]:
    """Up to ``workers`` workers that train cells into ``folder``/<cell>; the outcomes as they arrive.

    They start on entering, see ``open_pool``. ``rungs`` decides, in one place for all of them, which cells are trained
    to their end, None: all.

    A worker holds the arrays of one group at a time and trains the group's cells one after the other; when every group
    is taken, idle workers help with the largest. A cell that its workers do not survive fails: with one process of
    this machine, with three Ray workers.

    Raises:
        ConfigError: the engine is not there or cannot hold a worker, or a worker does not see the folders.
        SweepError: workers cannot be started.
    """
    settings = [cell.experiment.trainer for cell in cells]
    spec = WorkerSpec(
        partial(CellWorker, trainer, folder),
        at_once_of(cells, engine, workers),
        devices=frozenset(("trainer.accelerator", each.accelerator) for each in settings),
        cards=_devices(cells),
        answer=rungs.goes_on if rungs else None,
        writes=folder,
        reads=list(dict.fromkeys(manifest_path(cell.experiment.cache_folder) for cell in cells)),
        if_killed="; out of memory? lower workers, or set data.residency=stream",
    )
    with open_pool(engine, spec) as pool:
        yield _outcomes(pool, cells, folder)


def at_once_of(cells: Sequence[Cell], engine: Engine, workers: int) -> int:
    """How many of the cells ``workers`` train at the same time.

    Where cells are trained on several devices, a worker counts as so many on an engine that shares this machine.
    """
    share = workers // _devices(cells) if engine_of(engine).shares_machine else workers
    return min(max(1, share), len(cells))


def _devices(cells: Iterable[Cell]) -> int:
    """The most devices that one of the cells is trained on."""
    return max((cell.experiment.trainer.devices for cell in cells), default=1)


def _outcomes(pool: Pool[Any], cells: Sequence[Cell], folder: Path) -> Iterator[Outcome]:
    # A cell that is trained again lies there, finished, until it is replaced.
    before = {cell.name: finished_at(folder / cell.name) for cell in cells}
    with deaths_as(SweepError):
        for event in pool.run(group_by_arrays(cells), _urgency):
            if not isinstance(event, Ended):
                continue
            name = event.task.name
            if isinstance(event.error, WorkerDied) and finished_at(folder / name) not in (None, before[name]):
                yield Outcome(name, 0.0)  # it died between the last file and its message
            else:
                yield event.value if event.error is None else Outcome(name, 0.0, one_line(event.error))


def _urgency(cells: Sequence[Cell]) -> tuple[bool, bool]:
    """Previews, which take longest, come first and what takes no time last, so that the workers end together."""
    kinds = [kind_of(cell.experiment.probe.model) for cell in cells]
    return not all(kind.is_quick for kind in kinds), any(kind.decodes for kind in kinds)
