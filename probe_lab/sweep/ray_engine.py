"""The ``ray`` engine of a sweep: cells in actors of a cluster, those that share arrays over one resident copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from probe_lab.cache.manifest import manifest_path
from probe_lab.config import Engine
from probe_lab.engines import Cluster, Ended, Pool, Said, ray_cluster, require_gpus, same_file, token_in
from probe_lab.sweep.grid import Cell, group_by_arrays
from probe_lab.sweep.halving import Rungs
from probe_lab.sweep.worker import CellTrainer, CellWorker, GoOn, Outcome, one_line


@contextlib.contextmanager
def ray_engine(
    cells: Sequence[Cell],
    folder: Path,
    *,
    engine: Engine,
    workers: int,
    trainer: CellTrainer,
    rungs: Rungs | None = None,
) -> Iterator[Iterator[Outcome]]:
    """Up to ``workers`` actors that train cells into ``folder``/<cell>; the outcomes as they arrive.

    As ``local_engine``, but a cell whose worker or node is lost is trained again, until it has cost three. All cells
    ask one copy of ``rungs``, on this machine. However the block ends, no actor is left.

    Raises:
        ConfigError: the cluster does not answer or cannot hold a worker, or a node does not see the folders.
    """
    for cell in cells:
        require_gpus(engine, "trainer.accelerator", cell.experiment.trainer.accelerator)
    manifests = {manifest_path(cell.experiment.cache_folder): None for cell in cells}
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(ray_cluster(engine))
        shared = [stack.enter_context(token_in(folder)), *(same_file(path) for path in manifests if path.exists())]
        beside = min(workers, len(cells), cluster.places_on_one())
        make = partial(CellActor, trainer, folder, beside, _Asking(cluster, rungs) if rungs else None)
        pool = stack.enter_context(Pool(cluster, make, min(workers, len(cells)), shared))
        yield _outcomes(pool, cells)


def _outcomes(pool: Pool, cells: Sequence[Cell]) -> Iterator[Outcome]:
    for event in pool.run(group_by_arrays(cells)):
        if isinstance(event, Said):
            yield event.value
        elif isinstance(event, Ended) and event.error is not None:
            yield Outcome(event.task.name, 0.0, one_line(event.error))


class CellActor:
    """A ``CellWorker`` of the pool."""

    def __init__(self, trainer: CellTrainer, folder: Path, beside: int, go_on: GoOn | None) -> None:
        self._worker = CellWorker(trainer, folder, beside, go_on)

    def do(self, task: Cell) -> Iterator[Outcome]:
        yield self._worker.outcome(task)


class _Asking:
    """Asks, from any node, the one copy of the rungs whether a cell goes on."""

    def __init__(self, cluster: Cluster, rungs: Rungs) -> None:
        self._actor = cluster.actor_here(Judge, rungs)

    def __call__(self, cell: str, epoch: int, value: float) -> bool:
        import ray

        answer: bool = ray.get(self._actor.goes_on.remote(cell, epoch, value))
        return answer


class Judge:
    """Holds the rungs."""

    def __init__(self, rungs: Rungs) -> None:
        self._rungs = rungs

    def goes_on(self, cell: str, epoch: int, value: float) -> bool:
        return self._rungs.goes_on(cell, epoch, value)
