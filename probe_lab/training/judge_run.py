"""Train the picture judges of an experiment on the labels of its cache, and let them score every captured step."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from probe_lab.cache import Cache
from probe_lab.cache.judge_files import JudgeFiles
from probe_lab.cache.layout import FINISHED, LabelsOf
from probe_lab.config import Experiment
from probe_lab.data.text_lookup import TextTable
from probe_lab.errors import CacheError, ProbeError
from probe_lab.probes.applied_elsewhere import read_samples
from probe_lab.probes.picture_judge import QUESTIONS, PictureJudge
from probe_lab.probes.spec import JUDGED
from probe_lab.progress import OnProgress, Watching
from probe_lab.training.fit_probe import seeded
from probe_lab.training.judge_batches import JudgeBatches, LabelledPictures
from probe_lab.training.judge_module import JudgeModule
from probe_lab.training.judge_painting import learn_to_paint
from probe_lab.training.judge_scores import ANSWERS, MADE_FROM, WEIGHTS, lacks_scores
from probe_lab.training.lightning_trainer import quietly
from probe_lab.training.renoised_pictures import RenoisedPictures

MADE_BY = "2"
"""Raised whenever the same labels train another judge."""
TRAINING = "training"
_START = "start."
"""Before the names of the weights that a training began with, in what it keeps."""
SAVE_EVERY = 60.0
"""Seconds of training that a kill may lose."""
_AT_ONCE, _FOR_UNITS = 256, 512
"""Samples that are scored together; samples whose x₀ give the units of latents."""


def train_judges(experiment: Experiment, *, watching: Watching) -> Iterator[str]:
    """Train ``judge.seeds`` judges of the evaluators of ``probe`` on the labels of the cache, score all samples
    with them at these steps, and tell what was done, a line each.

    A judge that was trained on the same labels with the same settings is not trained again; an interrupted call is
    continued by the same one.

    Raises:
        CacheError: there is no cache, or it has no labels, or no text of their captions, or fewer noises of finished
            pictures than ``labels.renoised``.
        ScoreError: an evaluator has no labels at a step.
        ProbeError: the experiment names no steps, the labels are of another split, or a training diverged.
    """
    cache = Cache(experiment.cache_folder)
    steps, evaluators = experiment.judged_steps, experiment.probe_evaluators
    if not steps:
        raise ProbeError(
            "'labels.steps' and 'judge.steps' are empty, so a picture judge has no x₀ to read: name captured steps"
        )
    if not experiment.labels.images:
        raise ProbeError(
            "a picture judge learns from finished pictures too, and 'labels.images' is false: set it to true, then "
            "`probe-lab score` and `probe-lab judge`"
        )
    _require_split(experiment, cache)
    renoised = None
    if experiment.labels.renoised:
        renoised = RenoisedPictures(cache, experiment.labels.renoised, steps)
    made_by = judge_settings(experiment, cache, renoised)
    for seed in range(experiment.judge.seeds):
        files = JudgeFiles(cache.folder, cache.identity, seed)
        weights = files.read_if_made_by(WEIGHTS, made_by)
        status = "trained before"
        if weights is None:
            weights = _trained(experiment, cache, files, seed, made_by, renoised, watching)
            status = "trained"
        unscored = [step for step in steps if not _is_scored(files, step, made_by, cache)]
        if unscored:
            judge = built(experiment, cache, weights)
            for step in unscored:
                with watching(f"judge {seed}, step {step}", "samples") as update:
                    files.write(step, {"scores": _scored(judge, cache, step, experiment, update)}, made_by)
        judges_what = f"{', '.join(evaluators)} at steps {', '.join(map(str, steps))}"
        yield f"judge {seed} of {judges_what}: {status} ({files.path(WEIGHTS).parent})"


def _is_scored(files: JudgeFiles, step: int, made_by: dict[str, str], cache: Cache) -> bool:
    """Whether this very judge has scored all pictures at a step."""
    scored = files.read_if_made_by(step, made_by)
    return scored is not None and not lacks_scores(scored["scores"], cache)


def _require_split(experiment: Experiment, cache: Cache) -> None:
    """ProbeError for labels of other training prompts: some of theirs would be held out here."""
    split = cache.labels.settings.get("split")
    if split != str(experiment.data.split):
        raise ProbeError(
            f"the labels of {cache.folder} are of the split {split} and 'data.split' is {experiment.data.split}: run "
            "`probe-lab score` again with this one"
        )


def judge_settings(experiment: Experiment, cache: Cache, renoised: RenoisedPictures | None = None) -> dict[str, str]:
    """All that decides a judge of one seed: what made the labels, by their checksums, and how it is trained."""
    pictures: list[LabelsOf] = [*sorted(experiment.labels.steps), FINISHED]
    labels = {f"{of}/{name}": cache.labels.digest(name, of) for of in pictures for name in experiment.probe_evaluators}
    training = {key: value for key, value in asdict(experiment.judge).items() if key != "seeds"}
    training["steps"] = experiment.judged_steps
    training["gradient_clip"] = experiment.trainer.gradient_clip
    painted_by = f"{cache.manifest.backbone} {experiment.sampling.dtype}"
    if renoised is None:
        del training["renoised"]  # it decides nothing
    else:
        training["noises"] = renoised.digests
    content = {"labels": labels, "training": training, "painted_by": painted_by, "made_by": MADE_BY}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {
        "evaluators": json.dumps(experiment.probe_evaluators),
        "steps": json.dumps(experiment.judged_steps),
        "split": str(experiment.data.split),
        "encoder": experiment.text.encoder,
        ANSWERS: str(QUESTIONS),
        MADE_FROM: digest,
    }


def built(experiment: Experiment, cache: Cache, weights: dict[str, Tensor]) -> PictureJudge:
    """The judge that has these weights."""
    judge = _untrained(experiment, cache, cache.text_rows(experiment.text.encoder).shape("tokens")[2])
    judge.load_state_dict(weights)
    return judge.eval()


def _untrained(experiment: Experiment, cache: Cache, token_dim: int) -> PictureJudge:
    channels, height, width = cache.manifest.taps[JUDGED]
    return PictureJudge((channels, height, width), token_dim, len(experiment.probe_evaluators))


def _trained(
    experiment: Experiment,
    cache: Cache,
    files: JudgeFiles,
    seed: int,
    made_by: dict[str, str],
    renoised: RenoisedPictures | None,
    watching: Watching,
) -> dict[str, Tensor]:
    """Weights of the judge of a seed, which are stored."""
    settings = experiment.judge
    pictures = LabelledPictures.read(
        cache,
        experiment.probe_evaluators,
        experiment.judged_steps,
        experiment.text.encoder,
        previewed=experiment.labels.steps,
    )
    with seeded(seed):
        judge = _untrained(experiment, cache, pictures.text.shape("tokens")[2])
        begun = files.read_if_made_by(TRAINING, made_by)
        if begun is None:
            _standardise(judge, cache, pictures)
            if experiment.judge.pictures:
                with watching(f"judge {seed} paints", "lessons") as update:
                    learn_to_paint(judge, experiment, cache, pictures, update)
            module = JudgeModule(judge, settings)
        else:
            judge.load_state_dict(
                {name.removeprefix(_START): value for name, value in begun.items() if name.startswith(_START)}
            )
            module = JudgeModule(judge, settings)
            module.resume(begun)
        batches = JudgeBatches(cache, pictures, settings, seed=seed, first=module.done, renoised=renoised)
        start = {_START + name: value.clone() for name, value in judge.state_dict().items()}
        with watching(f"judge {seed}", "batches") as update:
            _fit(module, experiment, batches, _Keeping(files, made_by, start, update))
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in module.averaged.state_dict().items()}
    files.write(WEIGHTS, weights, made_by)
    files.path(TRAINING).unlink(missing_ok=True)
    return weights


def _fit(module: JudgeModule, experiment: Experiment, batches: JudgeBatches, keeping: Callback) -> None:
    with quietly():
        trainer = Trainer(
            max_steps=len(batches),
            max_epochs=1,
            accelerator=experiment.trainer.accelerator,
            devices=1,
            gradient_clip_val=experiment.trainer.gradient_clip or None,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[keeping],
        )
        with _interruptible():
            trainer.fit(module, DataLoader(batches, batch_size=None))
    module.cpu()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning answers Ctrl-C by switching it off and leaving the interpreter: here it stays Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stopped:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stopped


class _Keeping(Callback):
    """Shows progress, keeps what is trained, and refuses to go on from numbers that are none."""

    def __init__(
        self, files: JudgeFiles, made_by: dict[str, str], start: dict[str, Tensor], on_progress: OnProgress
    ) -> None:
        self._files, self._made_by, self._start, self._on_progress = files, made_by, start, on_progress
        self._kept = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *arguments: Any) -> None:
        self._look(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._look(module)

    def _look(self, module: LightningModule) -> None:
        """Between two batches."""
        assert isinstance(module, JudgeModule)
        if not math.isfinite(module.loss):
            raise ProbeError(
                f"the picture judge diverged at batch {module.done}: lower judge.learning_rate="
                f"{module.settings.learning_rate}"
            )
        self._on_progress(module.done, module.settings.batches)
        if time.monotonic() - self._kept > SAVE_EVERY:
            self._keep(module)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        assert isinstance(module, JudgeModule)
        if isinstance(exception, KeyboardInterrupt) and module.is_settled and module.done:
            self._keep(module)

    def _keep(self, module: JudgeModule) -> None:
        self._files.write(TRAINING, {**self._start, **module.progress()}, self._made_by)
        self._kept = time.monotonic()


def _standardise(judge: PictureJudge, cache: Cache, pictures: LabelledPictures) -> None:
    """From the first pictures of each step: units need no more than some hundred."""
    first = slice(_FOR_UNITS)
    clean = [read_samples(cache, f"{step}/{JUDGED}", pictures.ids[first]).float() for step in pictures.steps]
    labels = [torch.from_numpy(pictures.labels(step, first)) for step in pictures.steps]
    judge.standardise(torch.cat(clean), torch.cat(labels))


@torch.no_grad()
def _scored(judge: PictureJudge, cache: Cache, step: int, experiment: Experiment, on_progress: OnProgress) -> Tensor:
    """Scores of all samples at a step, under their own captions: float32 [samples, 2E]."""
    text = TextTable.load(cache, experiment.text.encoder)
    scores = torch.full((len(cache.samples), QUESTIONS * len(experiment.probe_evaluators)), torch.nan)
    done, total = 0, len(cache.complete_samples)
    on_progress(0, total)
    for shard, rows in cache.complete_samples.groupby("shard"):
        clean = cache.read(f"{step}/{JUDGED}", int(str(shard)))
        for start in range(0, len(rows), _AT_ONCE):
            together = rows.iloc[start : start + _AT_ONCE]
            _, tokens, mask = text.rows(torch.tensor(together["prompt_id"].to_numpy()))
            if tokens is None or mask is None:
                raise CacheError(f"the text of {experiment.text.encoder} in {cache.folder} has no tokens")
            share = torch.full((len(together),), step / cache.manifest.steps)
            judged = judge.scores(clean[torch.tensor(together["row"].to_numpy())], share, tokens, mask)
            scores[torch.tensor(together["sample_id"].to_numpy())] = judged
            done += len(together)
            on_progress(done, total)
    return scores
