"""Take the probe that ships with the package from a swept experiment: ``python -m tools.shipped_probes shipped_sd``.

The cell is the ridge regression at ``probe.step`` that has a picture judge, the one of ``experiments/shipped_*.yaml``.
Copied are its weights, their description and its configuration, which says how pictures were made and arrays captured;
and the captions are listed that taught it, so that nobody tests it on those.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from probe_lab.cache import Cache
from probe_lab.config import load_experiment
from probe_lab.data.splits import splits_of
from probe_lab.errors import ReportError
from probe_lab.probes.shipped import CAPTIONS, SHIPPED_PROBES
from probe_lab.runs import Runs
from probe_lab.runs.files import CONFIG, DESCRIPTION, WEIGHTS

LARGEST = 6 * 10**6
"""Bytes of the weights of one."""


def ship(name: str) -> Path:
    """Copy the probe of the experiment, and give its new folder.

    Raises:
        ReportError: it has no such cell, or several; or the weights are too large.
    """
    experiment = load_experiment(name)
    step = experiment.probe.step
    cells = [
        cell
        for cell in Runs(experiment.runs_folder).cells()
        if (cell.model, cell.step, cell.config.get("probe.judge")) == ("linear", step, True)
    ]
    if len(cells) != 1:
        raise ReportError(
            f"{experiment.runs_folder} has {len(cells)} linear cells with a judge at step {step}, not one"
        )
    source, target = cells[0].folder, SHIPPED_PROBES / experiment.backbone.label
    size = (source / WEIGHTS).stat().st_size
    if size > LARGEST:
        raise ReportError(f"{source / WEIGHTS} has {size:,} bytes, and what ships at most {LARGEST:,}")
    target.mkdir(parents=True, exist_ok=True)
    for file in (CONFIG, DESCRIPTION, WEIGHTS):
        shutil.copyfile(source / file, target / file)
    (target / CAPTIONS).write_text("".join(f"{caption}\n" for caption in captions_of(source)), encoding="utf-8")
    return target


def captions_of(cell: Path) -> list[str]:
    """Prompts of the training and validation splits of a cell, and the captions that its judge was labelled under."""
    experiment = load_experiment(cell / CONFIG, stored=True)
    cache = Cache(experiment.cache_folder)
    samples = cache.samples.drop_duplicates("prompt_id")
    prompts = samples["prompt"][splits_of(samples, experiment.data.split) != "test"]
    return sorted({*prompts, *cache.labels.captions["prompt"]})


if __name__ == "__main__":
    print(ship(sys.argv[1]))
