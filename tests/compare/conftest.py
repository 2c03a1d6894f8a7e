"""Makes `compare_world` importable, and the worlds of sweeps that it takes its cells from."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "sweep")]
