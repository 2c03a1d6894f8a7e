"""Score the images of a cache: each is decoded once, all evaluators see it, and nothing that was scored is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from probe_lab.cache import Cache
from probe_lab.cache.faults import faults_text, require_pictures
from probe_lab.cache.layout import scores_path, stems
from probe_lab.cache.overwriting import overwriting
from probe_lab.cache.scores import IMPORTED, read_score_metadata
from probe_lab.config import Engine, Scoring
from probe_lab.engines import engine_of
from probe_lab.errors import ConfigError, ScoreError, nearest
from probe_lab.evaluators.base import available, card, create, is_known
from probe_lab.evaluators.lacking import Pass, passes
from probe_lab.evaluators.passes import Part, score_here
from probe_lab.evaluators.score_ledger import ScoreLedger
from probe_lab.evaluators.score_worker import scoring_pool
from probe_lab.progress import OnProgress

SAVE_EVERY = 2.0
"""Seconds of work that a killed scoring may lose, if no single batch takes longer."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreSummary:
    """What became of the evaluators asked for; ``given`` ones have scores that are not computed here.

    ``unreadable`` are the samples without a score because their image is broken; ``faults`` says how many have none
    because their image is no picture of its prompt; ``notes`` what became of the scores of another checkpoint.
    """

    scored: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    unreadable: tuple[int, ...] = ()
    faults: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people, a line or a few."""
        counts = {"scored": self.scored, "scored before": self.skipped, "imported or kept": self.given}
        line = "; ".join(f"{what}: {', '.join(names)}" for what, names in counts.items() if names)
        if self.unreadable:
            one = len(self.unreadable) == 1
            line += f"; {len(self.unreadable)} broken {'image has' if one else 'images have'} no score"
        if self.faults:
            line += f"; without a score, being no pictures: {self.faults}"
        return "\n".join((*self.notes, line))


def score_cache(
    cache_folder: Path,
    evaluators: Sequence[str],
    *,
    scoring: Scoring | None = None,
    overwrite: bool = False,
    workers: int = 0,
    engine: Engine | None = None,
    on_progress: OnProgress | None = None,
) -> ScoreSummary:
    """Write ``scores/<evaluator>.parquet``, whole or not at all, with every sample of the complete shards.

    What is there with the same metadata (version, checkpoint, preprocessing) is not scored again unless ``overwrite``,
    see ``overwriting``; an interrupted call is continued by the same one. Scores of another checkpoint are kept under
    another name, see ``ScoreLedger``. Names that were imported, or kept, are left as they are.

    On this machine, evaluators with a model run in this process, one model in memory at a time unless
    ``scoring.resident``; if none has one, ``workers`` > 1 processes score whole shards. On another ``engine`` all of
    them run in up to ``workers`` workers, shard by shard. A broken image has no score and is logged as a warning.
    ``on_progress(done, total)`` counts images, those of before included.

    Raises:
        ConfigError: an unknown evaluator, an entry of ``scoring.models`` for one, or a Ray cluster that is not there
            or has no place for a worker.
        ScoreError: no complete shard, a prompt that cannot be scored, or a score that is not finite.
        CacheError: the images of a shard cannot be read.
    """
    scoring, names = scoring or Scoring(), list(dict.fromkeys(evaluators))
    check_names(Path(cache_folder), names, scoring)
    given = [name for name in names if is_given(Path(cache_folder), name, scoring)]
    asked = [create(name, scoring) for name in names if name not in given]
    if not asked:
        return ScoreSummary(given=tuple(given))
    cache = Cache(cache_folder)
    _require_images(cache)
    with overwriting(cache.folder, [scores_path(cache.folder, each.name) for each in asked], asked=overwrite):
        ledgers = [ScoreLedger(cache, each) for each in asked]
        scored = tuple(each.name for each in ledgers if len(each.pending))
        try:
            # The engine first: while there is no other thread, its workers can be forked.
            with _scored(cache, ledgers, scoring, workers, engine or Engine()) as parts:
                _enter_all(cache, ledgers, parts, on_progress or (lambda done, total: None))
        finally:
            for ledger in ledgers:
                ledger.save()
    return ScoreSummary(
        scored=scored,
        skipped=tuple(each.name for each in ledgers if each.name not in scored),
        given=tuple(given),
        unreadable=tuple(sorted(set[int]().union(*(each.unreadable for each in ledgers)))),
        faults=faults_text(cache.faults.values()),
        notes=tuple(note for each in ledgers for note in each.notes),
    )


def check_names(folder: Path, names: Sequence[str], scoring: Scoring) -> None:
    """ConfigError for an evaluator that is neither in the catalogue nor imported, and for settings of no evaluator."""
    known = available()
    for name in names:
        if ":" in name:
            card(name)  # imports its module
        elif not is_known(name) and not scores_path(folder, name).exists():
            raise ConfigError(
                f"there is no evaluator '{name}': {nearest(name, {*known, *stems(folder / 'scores', '.parquet')})}; "
                f"scores made elsewhere come in by `probe-lab score EXPERIMENT --import FILE --evaluator {name}`"
            )
    for name in scoring.models:
        if not is_known(name):
            raise ConfigError(f"'scoring.models.{name}' is of no evaluator: {nearest(name, known)}")


def is_given(folder: Path, name: str, scoring: Scoring) -> bool:
    """Whether the scores of this name are there and not for us to compute: imported, or of a former checkpoint."""
    if name in scoring.models or not scores_path(folder, name).exists():
        return False
    if not is_known(name):
        return True
    try:
        stored = read_score_metadata(folder, name)
    except ScoreError:  # damaged: scoring again is the remedy
        return False
    return IMPORTED in stored or stored.get("evaluator", name) != name


def _require_images(cache: Cache) -> None:
    if not cache.manifest.has_images:
        raise ScoreError(
            f"the cache {cache.folder} holds no images (capture.images=false): generate it with capture.images=true, "
            "or import scores"
        )
    if not cache.shards:
        raise ScoreError(f"the cache {cache.folder} has no complete shard to score: run `probe-lab generate` first")
    require_pictures(cache)


def _enter_all(cache: Cache, ledgers: Sequence[ScoreLedger], parts: Iterator[Part], on_progress: OnProgress) -> None:
    """Enter what comes, and save from time to time."""
    total = len(cache.picture_samples)
    by_name = {each.name: each for each in ledgers}
    done = total * len(ledgers) - sum(len(each.pending) for each in ledgers)
    on_progress(done // len(ledgers), total)
    warned: set[int] = set()
    saved = time.monotonic()
    for part in parts:
        for sample in sorted(set(part.unreadable) - warned):
            _log.warning("the image of sample %d cannot be decoded: it gets no score", sample)
            warned.add(sample)
        done += _enter(part, by_name)
        on_progress(done // len(ledgers), total)
        if time.monotonic() - saved > SAVE_EVERY:
            for ledger in ledgers:
                ledger.save()
            saved = time.monotonic()


def _enter(part: Part, ledgers: Mapping[str, ScoreLedger]) -> int:
    """How many scores the part decides."""
    for name, scores in part.scores.items():
        ledgers[name].add_unreadable(part.unreadable)
        ledgers[name].add(part.ids, scores)
    return len(part.scores) * (len(part.ids) + len(part.unreadable))


@contextmanager
def _scored(
    cache: Cache, ledgers: Sequence[ScoreLedger], scoring: Scoring, workers: int, engine: Engine
) -> Iterator[Iterator[Part]]:
    """On an engine that shares this machine, passes with a model, or for one worker alone, are done here."""
    here: list[Pass] = []
    elsewhere: list[Pass] = []
    for members, ids in passes(ledgers):
        alone = workers < 2 or any(evaluator.has_model for evaluator in members)
        (here if alone and engine_of(engine).shares_machine else elsewhere).append((members, ids))
    with ExitStack() as stack:
        parts: Iterator[Part] = iter(())
        if elsewhere:
            parts = stack.enter_context(scoring_pool(cache, elsewhere, scoring, workers, engine))
        # Closed at once: after an error, nobody prepares further images.
        scored = [stack.enter_context(closing(score_here(cache, members, ids, scoring))) for members, ids in here]
        yield chain(parts, *scored)
