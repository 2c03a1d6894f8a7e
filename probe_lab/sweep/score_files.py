"""Which files of its cache `probe-lab score` makes for an experiment."""

from __future__ import annotations

import contextlib
from pathlib import Path

from probe_lab.cache import Cache
from probe_lab.cache.layout import scores_path, text_path
from probe_lab.config import BACKBONE, Experiment
from probe_lab.errors import ProbeLabError
from probe_lab.evaluators.scoring_run import is_given
from probe_lab.labels.label_run import label_files
from probe_lab.previews.preview_scores import preview_files
from probe_lab.sweep.preview_needs import asked_previews, baseline_previews


def files_of_score(experiment: Experiment) -> list[Path]:
    """All that ``--overwrite`` makes again, there or not: text of an evaluator, scores, previews and labels.

    Errors as in ``asked_previews``; CacheError when there is no cache.
    """
    cache, folder, encoder = Cache(experiment.cache_folder), experiment.cache_folder, experiment.text.encoder
    names = [name for name in experiment.evaluators if not is_given(folder, name, experiment.scoring)]
    asked = asked_previews(experiment)
    files = [text_path(folder, encoder)] if encoder != BACKBONE else []
    files += [scores_path(folder, name) for name in names]
    files += preview_files(folder, asked)
    with contextlib.suppress(ProbeLabError):  # `score` tells why these are left to the sweep
        files += preview_files(folder, baseline_previews(experiment, but=asked))
    return [*files, *label_files(experiment, cache)]
