"""Trained probes that come with the package, for its built-in backbones."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from probe_lab.data.canonical import meaning
from probe_lab.errors import ProbeError, nearest
from probe_lab.runs.files import DESCRIPTION

SHIPPED = "shipped"
"""Names the shipped probe of a backbone, as ``probe.model`` and where a selection takes the name of a cell."""
SHIPPED_PROBES = Path(__file__).parent / "shipped_probes"
CAPTIONS = "captions.txt"
"""File of a shipped probe: the captions that it was trained on, altered ones too, or chosen by, one a line."""


def shipped_backbones() -> list[str]:
    """The backbones that have one."""
    return sorted(path.parent.name for path in SHIPPED_PROBES.glob(f"*/{DESCRIPTION}"))


def shipped_probe(backbone: str) -> Path:
    """The folder of the shipped probe of a backbone, as ``load_probe`` takes it.

    Raises:
        ProbeError: none is shipped for it.
    """
    backbones = shipped_backbones()
    if backbone not in backbones:
        raise ProbeError(
            f"no probe is shipped for the backbone '{backbone}': {nearest(backbone, backbones)}; train one of your own"
        )
    return SHIPPED_PROBES / backbone


@cache
def taught_by(folder: Path) -> frozenset[str]:
    """What the captions say, see ``meaning``, that a shipped probe was trained on or chosen by."""
    lines = (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()
    return frozenset(meaning(caption) for caption in lines)
