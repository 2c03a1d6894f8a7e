"""What the labels of an experiment will take, beside what its images take: how many, bytes and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from rich.table import Table
from torch import Tensor

from probe_lab.backbones.architectures import absent
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.capture.text_embeddings import encode_prompts
from probe_lab.config import BACKBONE, Experiment
from probe_lab.data.splits import splits_of
from probe_lab.engines.local import shared_threads
from probe_lab.errors import ProbeLabError
from probe_lab.evaluators import Evaluator, create, is_known
from probe_lab.evaluators.base import prepared, score_all_captions
from probe_lab.evaluators.ledger_scoring import scoring_processes
from probe_lab.evaluators.prompt_encoder import text_tower
from probe_lab.generation.dry_plan import TFLOPS
from probe_lab.generation.generation_worker import workers_of
from probe_lab.generation.measured_plan import Plan, size_text, time_text
from probe_lab.generation.prompt_notes import prompts_at_hand
from probe_lab.generation.prompts import sample_table
from probe_lab.generation.sampling import ROWS, sample_images
from probe_lab.labels.renoising import renoised_x0
from probe_lab.previews.decoding import pictures
from probe_lab.previews.price import decoder_flops

_SCORE_BYTES, _ID_BYTES = 4, 8


@dataclass(frozen=True)
class LabelPrices:
    """Seconds of one worker: to decode a preview, to score a picture under all captions with all evaluators, to noise a
    picture again, and to encode the text of a caption. None where it is not known, or not asked for. ``scoring``:
    workers that score side by side."""

    decode: float | None
    score: float | None
    renoise: float | None
    text: float | None = None
    scoring: int = 1


@dataclass(frozen=True)
class LabelRow:
    """Labels of a kind: how many, their bytes, and the seconds that pass on the clock (None: not known)."""

    what: str
    count: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class LabelPlan:
    """The labels of an experiment; ``units`` of ``hardware`` work side by side, as in the plan of its images.
    ``unknown``: evaluators whose labels, if there will be any, are not counted."""

    rows: Sequence[LabelRow]
    units: int
    hardware: str
    note: str = ""
    unknown: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Of all whose time is known."""
        return sum(row.seconds or 0.0 for row in self.rows)

    @property
    def is_complete(self) -> bool:
        """Whether ``seconds`` are of all labels."""
        return not self.unknown and all(row.seconds is not None for row in self.rows)


def label_plan(experiment: Experiment, plan: Plan, tflops: float = TFLOPS) -> LabelPlan | None:
    """What ``score`` will take for ``labels``, beside the ``plan`` of ``generate``; None where they ask for nothing.

    Where the weights are here, what is asked for is timed on one small batch; else time follows from operations at
    ``tflops`` of a card, and neither scoring nor text is counted.

    CaptureError when the backbone cannot be loaded, or is to noise pictures again and cannot.
    """
    labels = experiment.labels
    if not labels.captions:
        return None
    prompts = _training_prompts(experiment, plan)
    count, width = prompts * experiment.prompts.seeds, 1 + labels.captions
    unknown = [name for name in experiment.evaluators if not is_known(name)]
    evaluators = len(experiment.evaluators) - len(unknown)
    is_measured = absent(experiment.backbone) is None
    prices = measured_prices(experiment, plan) if is_measured else _counted_prices(experiment, plan, tflops)
    workers = workers_of(experiment, count) if is_measured else experiment.workers

    def scored(what: str, decode: float | None, times: int) -> LabelRow:
        pictures = count * times
        seconds = (
            None if prices.score is None or decode is None else (decode + prices.score) * pictures / prices.scoring
        )
        size = evaluators * pictures * (_SCORE_BYTES * width + _ID_BYTES)
        return LabelRow(what, pictures * width * evaluators, size, seconds)

    text = plan.text_bytes * experiment.prompts.seeds // max(plan.images, 1)
    encoding = None if prices.text is None else prices.text * prompts * labels.captions  # own text is there
    rows = [LabelRow("captions and their text", prompts * width, prompts * width * text, encoding)]
    if labels.steps:
        steps = ", ".join(map(str, sorted(labels.steps)))
        rows.append(scored(f"scores of previews, steps {steps}", prices.decode, len(set(labels.steps))))
    if labels.images:
        rows.append(scored("scores of images", 0.0, 1))
    if labels.renoised:
        again = count * labels.renoised
        x0 = plan.tap_bytes("x0") // max(plan.images, 1) if "x0" in plan.shapes else 0
        seconds = None if prices.renoise is None else prices.renoise * again / workers
        rows.append(LabelRow("images noised again", again, again * (x0 + 2 * _ID_BYTES), seconds))
    notes = []
    if prices.score is None and evaluators and (labels.steps or labels.images):
        notes.append(
            "What scoring takes is not known, its models are elsewhere. Eight further captions of a picture take about "
            "a quarter of what scoring it once does."
        )
    if unknown:
        notes.append(
            f"Labels of {', '.join(unknown)} are not counted: no evaluator of that name is loaded, and imported scores "
            "get none."
        )
    return LabelPlan(rows, plan.units, plan.hardware, "\n".join(notes), unknown)


def _training_prompts(experiment: Experiment, plan: Plan) -> int:
    """Counted where the prompts are at hand, else by the share of the split."""
    if prompts_at_hand(experiment) is None:
        return round(plan.images / experiment.prompts.seeds * experiment.data.split.train)
    prompts = sample_table(experiment).drop_duplicates("prompt_id")
    return int((splits_of(prompts, experiment.data.split) == "train").sum())


def _counted_prices(experiment: Experiment, plan: Plan, tflops: float) -> LabelPrices:
    decode = decoder_flops(experiment)
    # A picture of the plan takes as many denoiser calls as there are steps.
    calls = plan.images * experiment.sampling.steps
    renoise = plan.seconds * experiment.workers / calls if calls else None
    return LabelPrices(None if decode is None else decode / (tflops * 1e12), None, renoise)


def measured_prices(experiment: Experiment, plan: Plan) -> LabelPrices:
    """What the labels ask for, timed on one small batch of images, which is drawn for it."""
    sampling, labels = experiment.sampling, experiment.labels
    decode, renoise = None, None
    score, scoring = None, 1
    with shared_threads(workers_of(experiment, 2**30)):
        pipe = load_pipeline(experiment.backbone, sampling)
        samples = sample_table(experiment).iloc[: min(sampling.batch_size, ROWS)]
        images = sample_images(sampling, pipe, samples)
        if labels.renoised:
            seeds = list(range(len(samples)))
            again = partial(renoised_x0, sampling, pipe, samples, images, seeds, max(labels.steps))
            again()  # first calls allocate and choose kernels
            renoise = _seconds(again) / len(samples)
        if labels.steps and "x0" in plan.shapes:
            x0 = torch.zeros(len(samples), *plan.shapes["x0"])
            decode = _seconds(lambda: pictures(pipe, x0)) / len(samples)
        if labels.steps or labels.images:
            score, scoring = _scoring(experiment, images, samples["prompt"].tolist())
    return LabelPrices(decode, score, renoise, _text_price(experiment, pipe, samples["prompt"].tolist()), scoring)


def _text_price(experiment: Experiment, pipe: DiffusionPipeline, prompts: Sequence[str]) -> float | None:
    """Seconds to encode a caption, by all threads; None where the model of ``text.encoder`` is elsewhere."""
    name, texts = experiment.text.encoder, list(dict.fromkeys(prompts))
    encode: Callable[[list[str]], object]
    try:
        if name == BACKBONE:
            encode = partial(encode_prompts, pipe, experiment.sampling, length=experiment.capture.tokens)
        else:
            encode = text_tower(name, experiment.scoring).text_arrays
        encode(texts[:1])  # loads the model
        return _seconds(lambda: encode(texts)) / len(texts)
    except ProbeLabError:
        return None


def _scoring(experiment: Experiment, images: Sequence[Image], prompts: Sequence[str]) -> tuple[float | None, int]:
    """Seconds for one picture under all captions, and the workers. None without an evaluator that can run, or where a
    model is elsewhere."""
    width = 1 + experiment.labels.captions
    captions = [[prompts[(row + column) % len(prompts)] for column in range(width)] for row in range(len(images))]
    try:
        evaluators = [create(name, experiment.scoring) for name in experiment.evaluators if is_known(name)]
        if not evaluators:
            return None, 1
        _score(evaluators, images[:1], captions[:1])  # loads the models
        seconds = _seconds(lambda: _score(evaluators, images, captions)) / len(images)
    except ProbeLabError:
        return None, 1
    return seconds, scoring_processes(experiment, evaluators)


def _score(evaluators: Sequence[Evaluator], images: Sequence[Image], captions: Sequence[Sequence[str]]) -> Tensor:
    return score_all_captions(evaluators, [prepared(evaluators, image) for image in images], captions)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def label_table(plan: LabelPlan) -> Table:
    """The plan as a terminal table: a line for each kind, and the total."""
    table = Table(title="labels of the training images", title_justify="left")
    table.add_column("kind", overflow="fold")
    for column in ("number", "bytes", "time, about"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in plan.rows:
        table.add_row(
            row.what, f"{row.count:,}", size_text(row.bytes), "" if row.seconds is None else time_text(row.seconds)
        )
    table.add_section()
    least = "" if plan.is_complete else "at least "
    table.add_row("total", "", size_text(sum(row.bytes for row in plan.rows)), least + time_text(plan.seconds))
    table.add_row(f"{plan.hardware}-hours, about", "", "", f"{least}{plan.seconds * plan.units / 3600:,.2f}")
    table.caption, table.caption_justify = plan.note or None, "left"
    return table
