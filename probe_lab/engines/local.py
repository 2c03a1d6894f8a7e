"""The engine ``local``: processes of this machine, which share its cores and cards."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

from probe_lab.config import Engine, Experiment
from probe_lab.engines.in_process import InProcess
from probe_lab.engines.local_worker import ParentQuestion, work
from probe_lab.engines.pool import Died, EngineKind, Member, Message, Pool, Ready, Site, WorkerDied, WorkerSpec
from probe_lab.errors import ConfigError, ProbeLabError
from probe_lab.processes import READ_AGAIN, cores, ending, environment, interrupts_held, start_context, visible_cards
from probe_lab.resource_errors import one_line

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PATIENCE = 5.0
"""Seconds that a worker gets to end by itself."""


@contextlib.contextmanager
def open_local(settings: Engine, spec: WorkerSpec) -> Iterator[LocalPool]:
    """Processes that start on entering: a process without threads can fork them, which costs nothing. However the
    block ends, none is left."""
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(shared_threads(spec.most)) if spec.takes_part else _threads(spec.most)
        yield stack.enter_context(LocalPool(spec, threads))


@contextlib.contextmanager
def shared_threads(workers: int) -> Iterator[int]:
    """Within the block, this process has its share of its threads, over so many workers: more would wait for each
    other. Yields that share."""
    import torch

    before = torch.get_num_threads()
    share = max(1, before // workers)  # of those that this process was given
    torch.set_num_threads(share)
    try:
        yield share
    finally:
        torch.set_num_threads(before)


def _threads(workers: int) -> int:
    """Threads of one worker: its share of the cores that this process may use, or less where the user chose so."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores() // workers)
    return min(share, int(chosen)) if chosen.isdigit() and int(chosen) > 0 else share


class _Process(Member):
    """A worker in a process of its own. ``refusal`` is why it could not be made, ``began`` whether it was still there
    when it was given its task."""

    def __init__(self, process: BaseProcess, pipe: connection.Connection, cards: Sequence[str]) -> None:
        super().__init__()
        self.process, self.pipe, self.cards = process, pipe, cards
        self.refusal = ""
        self.began = False

    def give(self, task: object) -> None:
        is_sent = self.send(task)
        self.began = is_sent or len(self.tasks) > 1

    def send(self, message: object) -> bool:
        """Whether there is still somebody to send it to; the end of the pipe follows where there is not."""
        try:
            self.pipe.send(message)
        except OSError:
            return False
        return True

    def leave(self) -> None:
        """Idle ones end by themselves, busy ones by a signal."""
        if self.ready and not self.tasks:
            self.send(None)
        else:
            self.process.terminate()

    def end(self) -> None:
        """One that has let go of its pipe and does not end is killed."""
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


class LocalPool(Pool[_Process | InProcess]):
    """Processes, and this one where ``spec.takes_part``. A worker that dies costs the task that it was doing: on one
    machine, it would die again."""

    noun = "local worker"
    deaths = 1

    def __init__(self, spec: WorkerSpec, threads: int) -> None:
        super().__init__(spec.most, spec.called)
        self._spec, self._threads = spec, threads
        self._on_cpu = all(device.partition(":")[0] == "cpu" for _, device in spec.devices)
        self._cards = [] if self._on_cpu else visible_cards()
        self._here: InProcess | None = None

    def start(self) -> _Process | InProcess:
        """This process is the last to start: the others load their models while it works."""
        if self._spec.takes_part and self._here is None and len(self._members) == self.size - 1:
            site = Site(self.size, self._spec.answer)
            self._here = InProcess(lambda: self._spec.make(site))
            return self._here
        return self._start_process()

    def _start_process(self) -> _Process:
        context = start_context(on_cpu=self._on_cpu, threads=self._threads)
        ours, theirs = context.Pipe()
        cards = self._free_cards()
        site = Site(self.size, own_cards=bool(cards))
        arguments = (theirs, self._spec.make, site, self._threads, self._spec.answer is not None)
        process = context.Process(target=work, args=arguments)
        if isinstance(context, SpawnContext):
            resource_tracker.ensure_running()  # its own start would let Ctrl-C through
        limits = dict.fromkeys(_THREAD_VARIABLES, str(self._threads))  # read when numeric libraries are imported
        if cards:
            limits["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
        with environment(limits), interrupts_held():
            process.start()
        theirs.close()  # so that the pipe ends with the worker
        member = _Process(process, ours, cards)
        # While this process works, it gives out no tasks. They would come in the place of answers.
        member.queues = self._spec.takes_part and self._spec.answer is None
        return member

    def _free_cards(self) -> list[str]:
        """The GPUs that the fewest workers use, as many as one takes; none without any."""
        used = [card for member in self._members if isinstance(member, _Process) for card in member.cards]
        if self._spec.takes_part:
            used += self._cards[: self._spec.cards]
        return sorted(self._cards, key=used.count)[: self._spec.cards]

    def listen(self, members: Sequence[_Process | InProcess]) -> list[tuple[_Process | InProcess, Message]]:
        pipes = {member.pipe: member for member in members if isinstance(member, _Process)}
        here = next((member for member in members if isinstance(member, InProcess)), None)
        ends = connection.wait(list(pipes), timeout=0 if here else None)
        if here and not ends:
            return [(here, here.work_on())]
        heard = [pipes[end] for end in ends]  # type: ignore[index]  # what wait returns is what it was given
        messages = [(member, self._heard(member)) for member in heard]
        return [(member, message) for member, message in messages if message is not None]

    def _heard(self, member: _Process) -> Message | None:
        """One message of a worker, None where there is nothing in it for the pool; the end of its pipe means that it
        died."""
        try:
            message: Message | ParentQuestion = member.pipe.recv()
        except (EOFError, OSError):
            return self._death(member)
        if isinstance(message, ParentQuestion):
            assert self._spec.answer is not None
            member.send(self._spec.answer(*message.asked))
            return None
        if isinstance(message, Ready) and message.error and not isinstance(message.error, ProbeLabError):
            member.refusal = one_line(message.error)
            return None  # no memory, or no thread: the end of its pipe follows
        return message

    def _death(self, member: _Process) -> Message:
        member.end()
        code = member.process.exitcode or 0
        how = ending(code)
        if code == READ_AGAIN:
            return Ready(WorkerDied(f"{self._spec.called} ended {how}"))
        if not member.began:
            return Died(f"{how}: {member.refusal or 'see their messages above'}", began=False)
        return Died(f"{how}{self._spec.if_killed if code == -signal.SIGKILL else ''}", began=True)


def _check(experiment: Experiment) -> None:
    if experiment.engine.address:
        raise ConfigError(f"'engine.address' is '{experiment.engine.address}' and only engine.name=ray has one")


LOCAL = EngineKind(open_local, shares_machine=True, check=_check)
