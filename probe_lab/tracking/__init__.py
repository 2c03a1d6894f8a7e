"""The only package that knows MLflow: sweeps as parent runs, cells as child runs, logged from the files of finished
cells.

One MLflow experiment per experiment name. In it one parent run, which every rerun continues, and one run per cell,
found again by its tag ``cell``. All of it happens in a thread of the sweep's own process (``background``): workers
never touch the tracking store, and the sweep never waits for it. Tracking is an extra. Whatever goes wrong in it is a
warning, what could not be logged waits in files (``backlog``), and the sweep goes on.
"""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
