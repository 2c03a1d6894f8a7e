"""Makes `sweep_world` importable, here and in the spawned workers of the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
