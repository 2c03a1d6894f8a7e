"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Time is measured in benchmarks/, never in a test: the machine may be busy.
settings.register_profile("probe_lab", deadline=None)
settings.load_profile("probe_lab")
