"""Makes `cache_world` importable, here and in the spawned processes of the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
