"""Load and memory of the machine on which a sweep runs."""

from __future__ import annotations

from contextlib import suppress


class Machine:
    """Load and memory of this machine, sampled into a run by MLflow's own monitor until it is stopped."""

    def __init__(self, uri: str, run: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def stop(self) -> None:
        with suppress(Exception):  # a store that is gone takes nothing more
            self._monitor.finish()
