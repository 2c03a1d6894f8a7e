"""Where work runs beyond this process: Ray clusters, and pools of workers on them."""

from probe_lab.engines.cluster import Cluster, ray_cluster, require_gpus
from probe_lab.engines.pool import Ended, Event, Lost, Pool, Said, Worker, WorkerDied
from probe_lab.engines.shared import SharedFile, same_file, token_in

__all__ = [
    "Cluster",
    "Ended",
    "Event",
    "Lost",
    "Pool",
    "Said",
    "SharedFile",
    "Worker",
    "WorkerDied",
    "ray_cluster",
    "require_gpus",
    "same_file",
    "token_in",
]
