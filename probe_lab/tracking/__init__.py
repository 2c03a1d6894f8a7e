"""The only package that knows MLflow: sweeps as parent runs, cells as child runs, sent from the files of finished
cells.

One MLflow experiment per experiment name. In it one parent run, which every rerun continues, and one run per cell,
found again by its tag ``cell``. ``sync`` compares what the files say with what the store has, and sends what differs;
it may be run again at any time. A sweep runs it in a thread of its own process (``background``): workers never touch
the store, and the sweep never waits for it. Tracking is an extra: whatever goes wrong in it is a warning, and the next
sweep, report or `probe-lab track` goes on from the files.
"""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
