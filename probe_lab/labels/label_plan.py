"""What the labels of an experiment will take, beside what its images take: how many, bytes and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL.Image import Image
from rich.table import Table
from torch import Tensor

from probe_lab.backbones.architectures import absent
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.config import Experiment
from probe_lab.data.splits import splits_of
from probe_lab.engines.local import shared_threads
from probe_lab.errors import ProbeLabError
from probe_lab.evaluators import Evaluator, create, is_known
from probe_lab.evaluators.base import prepared, score_all_captions
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
    """Seconds of one worker: to decode a preview, to score a picture under all captions with all evaluators, and to
    noise a picture again. None where it is not known. ``scoring``: workers that score side by side."""

    decode: float | None
    score: float | None
    renoise: float
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
    """The labels of an experiment; ``units`` of ``hardware`` work side by side, as in the plan of its images."""

    rows: Sequence[LabelRow]
    units: int
    hardware: str
    note: str = ""

    @property
    def seconds(self) -> float:
        """Of all whose time is known."""
        return sum(row.seconds or 0.0 for row in self.rows)


def label_plan(experiment: Experiment, plan: Plan, tflops: float = TFLOPS) -> LabelPlan | None:
    """What ``score`` will take for ``labels``, beside the ``plan`` of ``generate``; None where they ask for nothing.

    Where the weights are here, one small batch is decoded, scored and noised again; else time follows from operations
    at ``tflops`` of a card, and scoring is not counted.

    CaptureError when the backbone cannot be loaded.
    """
    labels = experiment.labels
    if not labels.captions:
        return None
    prompts = _training_prompts(experiment, plan)
    count, width = prompts * experiment.prompts.seeds, 1 + labels.captions
    evaluators = sum(map(is_known, experiment.evaluators))
    is_measured = absent(experiment.backbone) is None
    prices = measured_prices(experiment) if is_measured else _counted_prices(experiment, plan, tflops)
    workers = workers_of(experiment, count) if is_measured else experiment.workers

    def scored(what: str, decode: float | None, times: int) -> LabelRow:
        pictures = count * times
        seconds = (
            None if prices.score is None or decode is None else (decode + prices.score) * pictures / prices.scoring
        )
        size = evaluators * pictures * (_SCORE_BYTES * width + _ID_BYTES)
        return LabelRow(what, pictures * width * evaluators, size, seconds)

    text = plan.text_bytes * experiment.prompts.seeds // max(plan.images, 1)
    rows = [LabelRow("captions and their text", prompts * width, prompts * width * text, None)]
    if labels.steps:
        steps = ", ".join(map(str, sorted(labels.steps)))
        rows.append(scored(f"scores of previews, steps {steps}", prices.decode, len(set(labels.steps))))
    if labels.images:
        rows.append(scored("scores of images", 0.0, 1))
    if labels.renoised:
        again = count * labels.renoised
        x0 = plan.tap_bytes("x0") // max(plan.images, 1) if "x0" in plan.shapes else 0
        rows.append(
            LabelRow("images noised again", again, again * (x0 + 2 * _ID_BYTES), prices.renoise * again / workers)
        )
    notes = (
        []
        if prices.score is not None
        else [
            "What scoring takes is not known, its models are elsewhere. Eight further captions of a picture take about "
            "a quarter of what scoring it once does."
        ]
    )
    return LabelPlan(rows, plan.units, plan.hardware, "\n".join(notes))


def _training_prompts(experiment: Experiment, plan: Plan) -> int:
    """Counted where the prompts are at hand, else by the share of the split."""
    if prompts_at_hand(experiment) is None:
        return round(plan.images / experiment.prompts.seeds * experiment.data.split.train)
    prompts = sample_table(experiment).drop_duplicates("prompt_id")
    return int((splits_of(prompts, experiment.data.split) == "train").sum())


def _counted_prices(experiment: Experiment, plan: Plan, tflops: float) -> LabelPrices:
    decode = decoder_flops(experiment)
    # A picture of the plan takes as many denoiser calls as there are steps.
    renoise = plan.seconds * experiment.workers / plan.images / experiment.sampling.steps
    return LabelPrices(None if decode is None else decode / (tflops * 1e12), None, renoise)


def measured_prices(experiment: Experiment) -> LabelPrices:
    """Timed on one small batch of images, which is drawn for it."""
    sampling = experiment.sampling
    with shared_threads(workers_of(experiment, 2**30)):
        pipe = load_pipeline(experiment.backbone, sampling)
        samples = sample_table(experiment).iloc[: min(sampling.batch_size, ROWS)]
        images = sample_images(sampling, pipe, samples)
        step = max(experiment.labels.steps, default=1)

        def renoised() -> Tensor:
            return renoised_x0(sampling, pipe, samples, images, list(range(len(samples))), step)

        x0 = renoised()  # first calls allocate and choose kernels
        renoise, decode = _seconds(renoised), _seconds(lambda: pictures(pipe, x0))
        score, scoring = _scoring(experiment, images, samples["prompt"].tolist())
        return LabelPrices(decode / len(samples), score, renoise / len(samples), scoring)


def _scoring(experiment: Experiment, images: Sequence[Image], prompts: Sequence[str]) -> tuple[float | None, int]:
    """Seconds for one picture under all captions, None where an evaluator's model is elsewhere; and the workers."""
    width = 1 + experiment.labels.captions
    captions = [[prompts[(row + column) % len(prompts)] for column in range(width)] for row in range(len(images))]
    try:
        evaluators = [create(name, experiment.scoring) for name in experiment.evaluators if is_known(name)]
        _score(evaluators, images[:1], captions[:1])  # loads the models
        seconds = _seconds(lambda: _score(evaluators, images, captions)) / len(images)
    except ProbeLabError:
        return None, 1
    alone = not experiment.sampling.on_cpu or any(each.has_model for each in evaluators)
    return seconds, 1 if alone else experiment.workers


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
    table.add_row("total", "", size_text(sum(row.bytes for row in plan.rows)), time_text(plan.seconds))
    table.add_row(f"{plan.hardware}-hours, about", "", "", f"{plan.seconds * plan.units / 3600:,.2f}")
    table.caption, table.caption_justify = plan.note or None, "left"
    return table
