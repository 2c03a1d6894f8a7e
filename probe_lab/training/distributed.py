"""One training by several processes, the ranks: each takes its share of every batch, and their gradients are averaged.

Lightning's DDP does the averaging. Its launchers would run the user's command again, or fork a process that has used
its threads, so the ranks are started here, and Lightning finds itself in one of a group that exists.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.config import Trainer as Settings
from probe_lab.errors import ConfigError, ProbeError, ProbeLabError
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec
from probe_lab.processes import begin_worker, ending, interrupts_held, spawn_context
from probe_lab.training.lightning_module import ContinueAfterEpoch, Epoch, ProbeModule, Stop
from probe_lab.training.lightning_trainer import fit_by_trainer, module_of
from probe_lab.training.out_of_memory import is_out_of_memory
from probe_lab.training.probe_data import data_of, decided

_PATIENCE = 10.0
"""Seconds that a rank gets to end by itself, when all is done."""
_AFTERMATH = 0.5
"""Seconds in which a rank that was killed shows, after another one complained of a broken connection."""


class RankModule(ProbeModule):
    """A ``ProbeModule`` in one of several processes. All shift a batch alike, and a loss that compares prompts has the
    rows of all; ``words`` is the group that they talk in, on the CPU."""

    words: dist.ProcessGroup | None = None

    def of_whole_batch(self, rows: Sequence[Tensor]) -> Sequence[Tensor]:
        """The rows of all processes, in their order, where samples of different prompts are compared.

        Every process then has the same loss L. The gradient of its own rows is the sum over the n processes, n ∂L/∂own,
        and DDP takes the mean of what follows from it: the gradient of one process that has all rows.
        """
        if not self.objective.across_prompts:
            return rows
        sizes = self._of_all(torch.tensor(len(rows[0]), device=rows[0].device)).tolist()
        return [self._gathered(values, sizes) for values in rows]

    def _gathered(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """``[ΣB, …]``; shares may differ in size, and what is gathered may not."""
        padded = torch.cat([values, values.new_zeros(max(sizes) - len(values), *values.shape[1:])])
        return torch.cat([part[:size] for part, size in zip(self._of_all(padded), sizes, strict=True)])

    def _of_all(self, values: Tensor) -> Tensor:
        """``[processes, …]``, with gradients where ``values`` have some."""
        everyone = self.all_gather(values, sync_grads=values.requires_grad)
        assert isinstance(everyone, Tensor)
        return everyone

    def draw_shift(self) -> Tensor:
        drawn = super().draw_shift()
        dist.broadcast(drawn, 0, group=self.words)
        return drawn


@dataclass(frozen=True)
class RankTask:
    """What every rank is told. Tensors are bytes in it: as themselves, the processes would share their memory."""

    spec: ProbeSpec
    experiment: Experiment
    cache: Path
    tensors: bytes
    asks: bool
    progress: bool
    module: type[RankModule] = RankModule

    @classmethod
    def of(
        cls,
        probe: Probe,
        experiment: Experiment,
        cache: Cache,
        *,
        labels: Tensor | None = None,
        asks: bool = False,
        progress: bool = False,
        module: type[RankModule] = RankModule,
    ) -> RankTask:
        """To train ``probe`` from the random state of now; ``asks``: whether to go on is asked after each epoch."""
        state = {"probe": probe.state_dict(), "labels": labels, "random": torch.get_rng_state()}
        return cls(probe.spec, decided(experiment, cache), cache.folder, _packed(state), asks, progress, module)


@dataclass(frozen=True)
class _Asked:
    """Rank 0 asks whether to go on, and waits for True or False."""

    epoch: int
    best: float


@dataclass(frozen=True)
class _Done:
    """What a rank has when all epochs are over; ``state`` is that of the probe, packed."""

    state: bytes
    history: list[Epoch]
    stopped: Stop


@dataclass(frozen=True)
class _Rank:
    number: int
    process: BaseProcess
    pipe: connection.Connection


def require_devices(settings: Settings) -> None:
    """ConfigError when there are fewer GPUs than ``trainer.devices``."""
    if settings.accelerator == "cpu" or (settings.accelerator == "auto" and not torch.cuda.is_available()):
        return
    cards = torch.cuda.device_count()
    if settings.devices > cards:
        raise ConfigError(
            f"'trainer.devices' is {settings.devices} and {cards} GPUs can be used here: set trainer.devices="
            f"{max(cards, 1)}{'' if cards else ', trainer.accelerator=cpu'}"
        )


def fit_on_ranks(probe: Probe, job: RankTask, go_on: ContinueAfterEpoch | None = None) -> tuple[list[Epoch], Stop]:
    """Train ``probe`` in place, by ``trainer.devices`` processes on this machine; the history, and what ended it early.

    No process is left, however this ends.

    Raises:
        ConfigError: fewer GPUs than devices.
        MemoryError: a rank ran out of memory.
        ProbeError: a rank failed or died. Other errors of ours are those of a rank.
    """
    require_devices(job.experiment.trainer)
    with tempfile.TemporaryDirectory(prefix="probe-lab-") as folder, _ranks(job, Path(folder) / "ranks") as ranks:
        done = _heard(ranks, go_on)
    probe.load_state_dict(_unpacked(done.state))
    probe.eval()
    return done.history, done.stopped


@contextlib.contextmanager
def _ranks(job: RankTask, store: Path) -> Iterator[list[_Rank]]:
    """The processes, which leave together when the block ends well, and are killed when it does not."""
    devices = job.experiment.trainer.devices
    threads = max(1, torch.get_num_threads() // devices)
    context = spawn_context()  # this process may have used its threads and cards, which a fork has not
    resource_tracker.ensure_running()  # its own start would let Ctrl-C through
    ranks: list[_Rank] = []
    try:
        for number in range(devices):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, number, store, threads))
            with interrupts_held():
                process.start()
                ranks.append(_Rank(number, process, ours))
            theirs.close()  # so that the pipe ends with the rank
        for rank in ranks:  # now that all are importing: what does not fit into a pipe waits for its reader
            with contextlib.suppress(OSError):
                rank.pipe.send(job)
        yield ranks
        for rank in ranks:
            with contextlib.suppress(OSError):
                rank.pipe.send(None)
        for rank in ranks:
            rank.process.join(_PATIENCE)
    finally:
        for rank in ranks:
            rank.process.kill()  # it has no files, and may wait for another one
            rank.process.join()
            rank.pipe.close()


def _heard(ranks: Sequence[_Rank], go_on: ContinueAfterEpoch | None) -> _Done:
    """Answer the ranks until all are done; what rank 0 has then."""
    done: dict[int, _Done] = {}
    while len(done) < len(ranks):
        waiting = {rank.pipe: rank for rank in ranks if rank.number not in done}
        for end in connection.wait(list(waiting)):
            rank = waiting[end]  # type: ignore[index]  # what wait returns is what it was given
            try:
                message: _Asked | _Done | Exception = rank.pipe.recv()
            except (EOFError, OSError):
                raise _death(rank, len(ranks)) from None
            if isinstance(message, Exception):
                raise _cause(message, [other for other in ranks if other is not rank], len(ranks))
            if isinstance(message, _Done):
                done[rank.number] = message
            else:
                answer = go_on is None or go_on(message.epoch, message.best)
                with contextlib.suppress(BrokenPipeError):  # it died just now; its pipe's end tells
                    rank.pipe.send(answer)
    return done[0]


def _cause(error: Exception, others: Sequence[_Rank], devices: int) -> Exception:
    """The error of a rank, unless it is the death of another one that it saw."""
    ended = connection.wait([other.process.sentinel for other in others], _AFTERMATH)
    return next((_death(other, devices) for other in others if other.process.sentinel in ended), error)


def _death(rank: _Rank, devices: int) -> ProbeError:
    rank.process.join()
    code = rank.process.exitcode or 0
    hint = "; out of memory? lower trainer.devices, or set data.residency=stream" if code == -signal.SIGKILL else ""
    return ProbeError(f"process {rank.number + 1} of {devices} of this training ended {ending(code)}{hint}")


def _work(pipe: connection.Connection, rank: int, store: Path, threads: int) -> None:
    """What a rank does. It stays until it is told to go: its leaving would be an error to the others."""
    begin_worker(pipe)
    torch.set_num_threads(threads)
    job: RankTask = pipe.recv()
    try:
        _join_group(job.experiment.trainer, rank, store)
        message: _Done | Exception = _trained(pipe, job, rank)
    except Exception as error:
        message = _told(error, rank, job.experiment.trainer.devices)
    pipe.send(message)
    pipe.recv()
    dist.destroy_process_group()


def _join_group(settings: Settings, rank: int, store: Path) -> None:
    """Meet the others through a file: a port might be taken by the time that they come to it."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # what Lightning asks for
    on_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, init_method=store.as_uri(), rank=rank, world_size=settings.devices)


def _trained(pipe: connection.Connection, job: RankTask, rank: int) -> _Done:
    settings, tensors = job.experiment.trainer, _unpacked(job.tensors)
    words = dist.new_group(backend="gloo")
    assert isinstance(words, dist.ProcessGroup)

    def go_on(epoch: int, best: float) -> bool:
        answer = torch.zeros(1, dtype=torch.int64)
        if rank == 0:
            pipe.send(_Asked(epoch, best))
            answer.fill_(pipe.recv())
        dist.broadcast(answer, 0, group=words)
        return bool(answer)

    probe = Probe(job.spec)
    probe.load_state_dict(tensors["probe"])
    module = module_of(
        probe, job.experiment, labels=tensors["labels"], go_on=go_on if job.asks else None, kind=job.module
    )
    assert isinstance(module, RankModule)
    module.words = words
    data = data_of(job.experiment, Cache(job.cache), rank=rank, world_size=settings.devices)
    _seed(settings.seed, rank, tensors["random"])
    fit_by_trainer(module, settings, data, progress=job.progress)
    state = _packed(module.finish().cpu().state_dict()) if rank == 0 else b""
    return _Done(state, module.history, module.stopped)


def _seed(seed: int, rank: int, random: Tensor) -> None:
    """Rank 0 draws as one process alone would; the others have dropout of their own."""
    if rank:
        torch.manual_seed(int(np.random.SeedSequence((seed, rank)).generate_state(1)[0]))
    else:
        torch.manual_seed(seed)
        torch.set_rng_state(random)


def _told(error: Exception, rank: int, devices: int) -> Exception:
    """The error as the first process raises it."""
    if isinstance(error, ProbeLabError):
        return error
    text = " ".join(str(error).split())[:300]
    if is_out_of_memory(error):
        told: Exception = MemoryError(text)
    else:
        told = ProbeError(f"process {rank + 1} of {devices} of this training failed: {type(error).__name__}: {text}")
    told.add_note(traceback.format_exc())
    return told


def _packed(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpacked(state: bytes) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(io.BytesIO(state), weights_only=True)
    return found
