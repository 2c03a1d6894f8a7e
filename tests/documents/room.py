"""Where the documents' commands run: a working folder with the shipped experiments, cut down to seconds."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from pages import ROOT

from probe_lab.config.includes import laid_over, read_documents
from probe_lab.probes.shipped import SHIPPED

SIZES: dict[str, Any] = {
    "prompts.count": 12,
    "prompts.seeds": 4,
    "evaluators": ["shapes_reward", "shapes_binding"],
    "cache.shard_size": 64,
    "data.batch_prompts": 6,
    "data.split": {"train": 0.4, "val": 0.3, "test": 0.3},
    "trainer.max_epochs": 1,
    "probe.width": 16,
    "probe.depth": 1,
    "probe.embedding": 16,
    "probe.shuffles": 1,
    "tradeoff.timed_prompts": 1,
    "tradeoff.rounds": 1,
    "tradeoff.budgets": [20],
    "workers": 1,
}
"""What is smaller in every experiment, beside images. Steps, taps and losses are as shipped, since pages name them."""
AXES = {"probe.step": (2, 4, 5, 8)}
"""Of these axes only these values, where there are any of them."""


def make_room(folder: Path, pixels: int) -> Path:
    """``folder`` with an ``experiments/`` of its own, of files that include no others; images have a width and height
    of ``pixels``."""
    for path, text in _experiments(pixels).items():
        own = folder / "experiments" / path
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(text, encoding="utf-8")
    return folder


@functools.cache
def _experiments(pixels: int) -> dict[Path, str]:
    """Text of the experiments, by their path under ``experiments``."""
    sizes = SIZES | {"sampling.height": pixels, "sampling.width": pixels}
    shipped, texts = ROOT / "experiments", {}
    for path in sorted(shipped.rglob("*.yaml")):
        content = functools.reduce(laid_over, (document.content for document in read_documents(path)), {})
        texts[path.relative_to(shipped)] = yaml.safe_dump(_cut(content, sizes), sort_keys=False)
    return texts


def copied(room: Path, folder: Path) -> Path:
    """A room with the same files, which are linked: what replaces one leaves the other room's as it is."""
    shutil.copytree(room, folder, copy_function=os.link)
    return folder


def _cut(content: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    if content.get("prompts", {}).get("source") != "shapes":  # planned alone: what it says is of the whole
        return content
    for key, value in sizes.items():
        section, _, name = key.partition(".")
        if not name:
            content[key] = value
        else:
            content.setdefault(section, {})[name] = value
    sweep = content.get("sweep") or []
    grids = sweep if isinstance(sweep, list) else sweep.get("grids", [sweep])
    # With the small share that trains here, the shipped probe knows some that are held out, and refuses.
    grids[:] = [grid for grid in grids if grid.get("probe.model") != [SHIPPED]]
    for grid in grids:
        for key, kept in AXES.items():
            values = grid.get(key)
            if isinstance(values, list) and set(values) & set(kept):
                grid[key] = [value for value in values if value in kept]
    return content
