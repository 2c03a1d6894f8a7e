"""Make the labels that an experiment asks for: captions, their text, and scores of training pictures under them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.cache.label_files import Captions
from probe_lab.cache.layout import FINISHED, LABELS, LabelsOf, labels_path, renoised_path, text_path
from probe_lab.cache.overwriting import overwriting
from probe_lab.config import Experiment
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator, create
from probe_lab.evaluators.lacking import by_shard, passes
from probe_lab.evaluators.ledger_scoring import score_into
from probe_lab.evaluators.scoring_run import is_given
from probe_lab.labels.caption_table import stored_captions
from probe_lab.labels.caption_text import encode_captions
from probe_lab.labels.label_ledger import LabelLedger
from probe_lab.labels.label_worker import Labelled, LabelTask, LabelWorker
from probe_lab.labels.renoise_run import make_renoised
from probe_lab.previews.preview_scores import MADE_BY
from probe_lab.progress import OnProgress, Watching

Ledgers = Mapping[tuple[LabelsOf, str], LabelLedger]
"""By the pictures and the evaluator."""
_AT_ONCE = 64
"""Samples of one task, about: those of a prompt stay together, since they share its captions."""


def make_labels(experiment: Experiment, *, overwrite: bool = False, watching: Watching) -> Iterator[str]:
    """Make what ``experiment.labels`` asks for and is not there yet, and tell what was done, a line each.

    Only training prompts are labelled. Captions are whole or not at all. Text and scores are kept as they come: an
    interrupted call is continued by the same one. What was made by another evaluator (version, checkpoint,
    preprocessing), decoder or alteration is made again, with ``overwrite`` all but the captions, see ``overwriting``.
    Evaluators whose scores were imported are passed over.

    Raises:
        CacheError: there is no such cache, or it lacks the ``x0`` of a step.
        ConfigError: captions that cannot be made, see ``stored_captions``.
        ScoreError: an evaluator cannot score a caption, gives a score that is not finite, or a process died.
        CaptureError: the backbone cannot be loaded.
    """
    if not experiment.labels.captions:
        return
    cache = Cache(experiment.cache_folder)
    with overwriting(cache.folder, label_files(experiment, cache), asked=overwrite):
        yield from _made(experiment, cache, watching)


def label_files(experiment: Experiment, cache: Cache) -> list[Path]:
    """What ``make_labels`` makes beside the captions; some shards may have no picture to noise again."""
    folder, labels = cache.folder, experiment.labels
    if not labels.captions:
        return []
    names = [name for name in experiment.evaluators if not is_given(folder, name, experiment.scoring)]
    return [
        text_path(folder, experiment.text.encoder, of_labels=True),
        *(labels_path(folder, name, of) for of in _labelled_pictures(experiment) for name in names),
        *(renoised_path(folder, number, shard) for number in range(labels.renoised) for shard in cache.shards),
    ]


def _labelled_pictures(experiment: Experiment) -> list[LabelsOf]:
    labels = experiment.labels
    return [*sorted(labels.steps), *([FINISHED] if labels.images else [])]


def _made(experiment: Experiment, cache: Cache, watching: Watching) -> Iterator[str]:
    given = [name for name in experiment.evaluators if is_given(cache.folder, name, experiment.scoring)]
    evaluators = [create(name, experiment.scoring) for name in experiment.evaluators if name not in given]
    for step in experiment.labels.steps:
        cache.read(f"{step}/x0", cache.shards[0] if cache.shards else 0, slice(0, 0))  # refused before work
    captions, made = stored_captions(experiment, cache)
    _require_scorable(evaluators, captions)
    prompts = len(captions.table) // captions.width
    yield (
        f"labels: {captions.width - 1} altered captions of each of {prompts} training prompts "
        f"({captions.settings['alter']}), {'made' if made else 'made before'} ({cache.folder / LABELS})"
    )
    with watching("text of captions", "captions") as update:
        encoded = encode_captions(experiment, cache, captions, update)
    if encoded:
        yield f"text of the captions: {cache.folder / LABELS / 'text'}/{experiment.text.encoder}.safetensors"
    with watching("labels", "pictures") as update:
        yield from score_labels(experiment, cache, captions, evaluators, on_progress=update)
    if experiment.labels.renoised:
        yield from make_renoised(experiment, cache, captions, watching=watching)
    if given:
        yield f"no labels of {', '.join(given)}: those scores were imported, and who gave them sees no other captions"


def score_labels(
    experiment: Experiment,
    cache: Cache,
    captions: Captions,
    evaluators: Sequence[Evaluator],
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> list[str]:
    """Write ``labels/<step>/<evaluator>.safetensors`` and ``labels/images/<evaluator>.safetensors``.

    ``on_progress(done, total)`` counts pictures that an evaluator has scored under all of their captions. Returns a
    line per step, and for the images. Errors as in ``make_labels``.
    """
    pictures, samples = _labelled_pictures(experiment), cache.picture_samples
    ids = samples["sample_id"][samples["prompt_id"].isin(captions.table["prompt_id"])].to_numpy()
    decoder = {"preview": MADE_BY, "decoder": f"{cache.manifest.backbone} {experiment.sampling.dtype}"}
    ledgers = {
        (of, evaluator.name): LabelLedger(
            cache, captions, evaluator, of, ids, made_by={} if of == FINISHED else decoder
        )
        for of in pictures
        for evaluator in evaluators
    }
    pending = {place for place, ledger in ledgers.items() if len(ledger.pending)}
    try:
        _fill(experiment, cache, ledgers, on_progress)
    finally:
        for ledger in ledgers.values():
            ledger.save()
    return [_line(of, [each.name for each in evaluators], pending) for of in pictures]


def _fill(experiment: Experiment, cache: Cache, ledgers: Ledgers, on_progress: OnProgress) -> None:
    def enter(task: LabelTask, labelled: Labelled) -> int:
        for name, scores in zip(task.evaluators, labelled.scores.swapaxes(0, 1), strict=True):
            ledgers[task.of, name].add(task.ids, scores, labelled.unreadable)
        return len(task.ids) * len(task.evaluators)

    score_into(
        ledgers.values(),
        list(_tasks(cache, ledgers)),
        partial(LabelWorker, experiment, cache),
        enter,
        experiment=experiment,
        total=sum(len(ledger.ids) for ledger in ledgers.values()),
        on_progress=on_progress,
    )


def _tasks(cache: Cache, ledgers: Ledgers) -> Iterator[LabelTask]:
    """What is not labelled."""
    prompts = cache.samples["prompt_id"].to_numpy()
    for of in dict.fromkeys(of for of, _ in ledgers):
        for members, lacking in passes([ledger for (each, _), ledger in ledgers.items() if each == of]):
            names = tuple(evaluator.name for evaluator in members)
            for samples in by_shard(cache, lacking):
                yield from (LabelTask(of, names, ids) for ids in _whole_prompts(samples, prompts))


def _whole_prompts(ids: NDArray[np.int64], prompts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """``ids`` in parts of about ``_AT_ONCE``; none begins within a prompt, which ``prompts`` gives by sample."""
    ends = [*(np.flatnonzero(np.diff(prompts[ids])) + 1).tolist(), len(ids)]
    first = 0
    for end, following in pairwise([*ends, len(ids) + _AT_ONCE]):
        if following - first > _AT_ONCE:
            yield ids[first:end]
            first = end


def _require_scorable(evaluators: Sequence[Evaluator], captions: Captions) -> None:
    """ScoreError for the first evaluator that cannot score one of the captions, whatever the picture is."""
    for evaluator in evaluators:
        refused = evaluator.unscorable(captions.table["prompt"].unique().tolist())
        if refused:
            raise ScoreError(
                f"the evaluator {evaluator.name} cannot score {len(refused)} of the altered captions, '{refused[0]}' "
                "for one: choose another labels.alter, or take it out of 'evaluators'"
            )


def _line(of: LabelsOf, names: Sequence[str], pending: set[tuple[LabelsOf, str]]) -> str:
    made = [name for name in names if (of, name) in pending]
    before = [name for name in names if (of, name) not in pending]
    parts = [f"{what}: {', '.join(which)}" for what, which in (("scored", made), ("scored before", before)) if which]
    return f"labels of {'the images' if of == FINISHED else f'previews at step {of}'}: {'; '.join(parts)}"
