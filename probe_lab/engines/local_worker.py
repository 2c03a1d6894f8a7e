"""What a worker process of the engine ``local`` does, and what it and its parent send each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Any

from probe_lab.engines.in_process import portable, sent_messages
from probe_lab.engines.pool import Ready, Site, Worker
from probe_lab.processes import begin_worker


@dataclass(frozen=True)
class ParentQuestion:
    """Of a worker, which waits for the answer. All else that it is sent are tasks, and None at the end."""

    asked: tuple[Any, ...]


def work(
    pipe: connection.Connection, make: Callable[[Site], Worker], site: Site, threads: int, is_answered: bool
) -> None:
    """Make a worker and let it do the tasks that arrive on the pipe, until None arrives."""

    def ask(*asked: Any) -> Any:
        pipe.send(ParentQuestion(asked))
        return pipe.recv()

    try:
        try:
            begin_worker(pipe)
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it has no cores for that, and a fork is warned of it
            import torch

            torch.set_num_threads(threads)
            worker = make(replace(site, ask=ask) if is_answered else site)
        except Exception as error:
            pipe.send(Ready(portable(error)))
            return
        pipe.send(Ready())
        while (task := pipe.recv()) is not None:
            for message in sent_messages(worker, task):
                pipe.send(message)
    except (EOFError, ConnectionError):
        pass  # the other end of the pipe is gone, and nobody is left to tell: what a task raises is a message
    finally:  # a thread may keep a process that has nothing left to do
        pipe.close()
