"""An engine of a user's own, which does everything in this process: experiments name it ``my_engine:HERE``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from probe_lab.config import Engine
from probe_lab.engines import EngineKind, InProcess, Message, Pool, Site, WorkerSpec


class HerePool(Pool[InProcess]):
    """One worker."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(1, spec.called)
        self._spec = spec

    def start(self) -> InProcess:
        return InProcess(lambda: self._spec.make(Site(ask=self._spec.answer)))

    def listen(self, members: Sequence[InProcess]) -> list[tuple[InProcess, Message]]:
        return [(member, member.work_on()) for member in members]


@contextmanager
def open_here(settings: Engine, spec: WorkerSpec) -> Iterator[HerePool]:
    with HerePool(spec) as pool:
        yield pool


HERE = EngineKind(open_here)
