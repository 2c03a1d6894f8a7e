"""The typed experiment: frozen dataclasses with every key and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf

from probe_lab.config.environment import Written, as_written
from probe_lab.config.world import Backbone, CacheConfig, CaptureConfig, Precision, Prompts, Sampling
from probe_lab.data.scalars import Scalar
from probe_lab.data.splits import SplitFractions
from probe_lab.losses import parse_loss

Model = Literal["cnn", "linear", "prompt_only", "attention_entropy", "noisy_latent", "x0_preview", "shuffled_labels"]
Backend = Literal["native", "reference"]
EngineName = Literal["local", "ray"]
Head = Literal["plain", "text"]
Negatives = Literal["prompts", "all"]


@dataclass(frozen=True)
class Conditional:
    """The values that a key takes only where ``condition`` holds; at other points of a grid it keeps the
    experiment's own."""

    values: tuple[Any, ...]
    condition: str


Axis = tuple[Any, ...] | Conditional
"""The values that one key takes in a sweep; a value is whatever the key holds, a list of taps for instance."""
Grid = Mapping[str, Axis]


@dataclass(frozen=True)
class EvaluatorModel:
    """Where an evaluator's model comes from; an empty key is the evaluator's own default.

    ``checkpoint`` is a local file or folder, or the id of a hub repository; ``base`` is the same for the model that a
    head (aesthetic) sits on. ``architecture`` is an open_clip name, for evaluators that exist in several sizes.
    ``reference`` runs the original package instead of ours.
    """

    checkpoint: str = ""
    base: str = ""
    architecture: str = ""
    backend: Backend = "native"


@dataclass(frozen=True)
class Scoring:
    """How evaluators with a model run; ``models`` holds what differs for one, by its name in ``evaluators``.

    One model is in memory at a time, unless they are to be ``resident``.
    """

    device: str = "cpu"
    dtype: Precision = "float32"
    batch_size: int = 64
    resident: bool = False
    models: dict[str, EvaluatorModel] = field(default_factory=dict)


BACKBONE = "backbone"
"""The ``text.encoder`` that `generate` caches."""


@dataclass(frozen=True)
class Text:
    """Whose text embeddings InfoNCE and text-reading probes use: the ``backbone``'s, or an evaluator's by its name."""

    encoder: str = BACKBONE


@dataclass(frozen=True)
class Data:
    """How batches are made: ``batch_prompts`` prompts with all their seeds each."""

    batch_prompts: int = 16
    residency: Literal["stream", "memory", "auto"] = "auto"
    num_workers: int = 0
    split: SplitFractions = field(default_factory=SplitFractions)


@dataclass(frozen=True)
class ProbeConfig:
    """What a probe reads, how it is built and which objective it is trained with.

    ``evaluators`` empty means all of the experiment's. ``temperature``, ``margin`` and ``alignment`` are τ_max, α_max
    (in standard deviations of the target) and λ of Probe-Select; ``ema`` 0 switches the moving average off.
    ``scalars`` are read beside the taps by ``cnn`` and ``linear``: ``preview:<evaluator>`` is that evaluator's score of
    the picture that the predicted x₀ of the step decodes to, ``lookahead:<evaluator>`` of the tap ``lookahead``.
    ``shuffles`` is how often ``shuffled_labels`` is trained, each time on other permutations: a single one differs from
    0 by luck too often to be a control.

    ``steps`` are all steps that one probe is trained on, which is told the step; it is evaluated at ``step``, one of
    them. Empty: ``step`` alone. The head reads the embedding u, with ``head`` text also the prompt's e, as
    [u, e, u·e, |u − e|], and InfoNCE then compares these two. ``correlation`` weighs the term ``pearson``. Over the
    epochs the temperature of InfoNCE goes linearly from ``nce_temperature`` to ``nce_temperature_ratio`` times that.
    ``nce_negatives`` are the samples of other prompts, or all other samples. Without ``ema_warmup`` the decay of the
    moving average is ``ema`` from the start.
    """

    model: Model = "cnn"
    step: int = 5
    taps: list[str] = field(default_factory=list)
    evaluators: list[str] = field(default_factory=list)
    loss: str = "listwise"
    within_prompt: bool = True
    text: Literal["none", "pooled", "tokens"] = "tokens"
    width: int = 64
    depth: int = 2
    embedding: int = 128
    dropout: float = 0.3
    temperature: float = 0.5
    margin: float = 0.5
    alignment: float = 10.0
    nce_temperature: float = 0.1
    ema: float = 0.99
    oversample: float = 0.0
    scalars: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    head: Head = "plain"
    correlation: float = 1.0
    nce_temperature_ratio: float = 1.0
    nce_negatives: Negatives = "prompts"
    ema_warmup: bool = True
    shuffles: int = 10

    @property
    def trained_steps(self) -> list[int]:
        """The steps whose arrays it is trained on."""
        return self.steps or [self.step]

    @property
    def previews(self) -> list[Scalar]:
        """Which scores of which previews the ``scalars`` are."""
        return [Scalar.parse(scalar) for scalar in self.scalars]

    @property
    def reads_text(self) -> bool:
        """Whether the prompts' text embeddings change what comes out."""
        if self.model in ("cnn", "noisy_latent", "shuffled_labels"):
            return self.text != "none" or self.head == "text" or "infonce" in parse_loss(self.loss)
        return self.model == "prompt_only"


@dataclass(frozen=True)
class Trainer:
    """How a probe is trained. ``seed`` is the training seed: initial weights and the order of batches.

    ``accumulate`` takes a step only after so many batches, with the mean of their gradients. ``patience`` ends a
    training after so many epochs without a better validation value; 0 trains them all. ``devices`` above 1 are
    processes that share one training, by DDP.
    """

    max_epochs: int = 12
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    seed: int = 0
    devices: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "cpu"
    accumulate: int = 1
    patience: int = 0


@dataclass(frozen=True)
class Metrics:
    """How predictions are judged. ``auc_threshold`` is the score above which an image counts as good, in the
    evaluators' own units; null is the median of the training split."""

    auc_threshold: float | None = None


@dataclass(frozen=True)
class Halving:
    """Successive halving over the cells of a sweep (ASHA, its stopping variant); ``first`` 0 switches it off.

    After ``first`` epochs, and each time ``factor`` times as many, a cell goes on only where its validation value is
    among the best 1/``factor`` of those that came so far. ``by`` names keys whose values compete apart, ``probe.step``
    for instance. Baselines are always trained to their end.
    """

    first: int = 0
    factor: int = 3
    by: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Select:
    """How ``select`` spends denoiser calls: ``candidates`` start for every prompt and ``keep`` of them are finished.

    They are chosen where the probe was trained, or by the cuts of ``schedule``, ``{step: 2, keep: 6}`` each; a
    ``budget`` of denoiser calls per prompt finds the schedule, 0 leaves it. ``by`` is an evaluator, weights of several
    (``a=0.7,b=0.3``) or ``pareto``, empty the first that the probe predicts.
    """

    candidates: int = 5
    keep: int = 1
    schedule: list[dict[str, int]] = field(default_factory=list)
    budget: int = 0
    by: str = ""


@dataclass(frozen=True)
class Tradeoff:
    """What ``tradeoff`` measures: the first ``prompts`` of the test split, with each of the numbers of ``candidates``.

    ``fewer_steps`` are the numbers of sampling steps of the rival that finishes all candidates in fewer; none, or 0,
    leaves it out. ``thin`` is the share of the candidates that the cascade's probe leaves for the lookahead, at least;
    0 chooses it on as many validation prompts. The wall-clock and the floating-point operations are those of the
    numbers which are in ``timed`` too, the wall-clock on ``timed_prompts`` of the prompts, over ``rounds`` in which all
    ways take turns.
    """

    prompts: int = 100
    candidates: list[int] = field(default_factory=lambda: [2, 3, 5, 8, 12, 20, 30, 50])
    fewer_steps: list[int] = field(default_factory=lambda: [5, 7, 10, 15])
    thin: float = 0.0
    timed: list[int] = field(default_factory=lambda: [2, 5, 8, 20, 50])
    timed_prompts: int = 8
    rounds: int = 3


@dataclass(frozen=True)
class Engine:
    """Where sweep, generate and score run: ``local`` processes, or ``ray``, which also spans machines.

    ``address`` is that of a running Ray cluster, ``auto`` the one of this machine; empty starts one here. ``cpus`` and
    ``gpus`` are what one Ray worker reserves; a share of a GPU is allowed.
    """

    name: EngineName = "local"
    address: str = ""
    cpus: float = 1.0
    gpus: float = 0.0


EXHIBITS = (
    "dp_table_prediction",
    "dp_table_metrics",
    "dp_figure_steps",
    "dp_table_prompt_optimization",
    "dp_table_seed_selection",
    "dp_table_grpo",
    "ps_table_spearman",
    "ps_table_selection",
    "ps_table_fid",
    "ps_table_losses",
    "ps_figure_gain",
    "ps_figure_time",
    "ps_figure_blocks",
    "ps_figure_cost",
    "probe_select_released",
)
"""Tables and figures of Diffusion Probe (dp) and Probe-Select (ps) that ``report`` can draw; and Probe-Select as its
authors' code trains it."""


@dataclass(frozen=True)
class Paper:
    """Which table or figure of a paper ``report`` draws, beside its published numbers, instead of the whole report;
    one of ``EXHIBITS``, empty: the whole report."""

    exhibit: str = ""


@dataclass(frozen=True)
class Tracking:
    """Where MLflow keeps its runs; the environment's ``MLFLOW_TRACKING_URI`` wins, an empty one switches it off.

    ``system_metrics`` samples load and memory of the sweep's machine into the parent run.
    """

    uri: str = "sqlite:///mlflow.db"
    system_metrics: bool = False


@dataclass(frozen=True)
class Schema:
    """Every key of an experiment but its sweep, whose values have as many types as there are keys."""

    name: str = ""
    seed: int = 0
    backbone: Backbone = field(default_factory=Backbone)
    prompts: Prompts = field(default_factory=Prompts)
    sampling: Sampling = field(default_factory=Sampling)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    evaluators: list[str] = field(default_factory=lambda: ["shapes_reward"])
    scoring: Scoring = field(default_factory=Scoring)
    text: Text = field(default_factory=Text)
    data: Data = field(default_factory=Data)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    trainer: Trainer = field(default_factory=Trainer)
    metrics: Metrics = field(default_factory=Metrics)
    halving: Halving = field(default_factory=Halving)
    select: Select = field(default_factory=Select)
    tradeoff: Tradeoff = field(default_factory=Tradeoff)
    engine: Engine = field(default_factory=Engine)
    paper: Paper = field(default_factory=Paper)
    tracking: Tracking = field(default_factory=Tracking)
    workers: int = 2
    runs: str = "runs"
    reports: str = "reports"

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache.root) / (self.cache.name or self.name)

    @property
    def runs_folder(self) -> Path:
        return Path(self.runs) / self.name

    @property
    def report_folder(self) -> Path:
        exhibit = self.paper.exhibit
        own = exhibit in ("", self.name)  # an exhibit of another experiment must not replace its report
        return Path(self.reports) / (self.name if own else f"{self.name}_{exhibit}")

    @property
    def probe_evaluators(self) -> list[str]:
        """The evaluators that probes predict: the probe's own list, or all."""
        return list(self.probe.evaluators or self.evaluators)


@dataclass(frozen=True)
class Experiment(Schema):
    """One experiment file with its overrides. ``sweep`` is a union of grids, each a mapping from key to values.

    ``only`` chooses among their cells (``sweep.select`` in a file), ``sets`` are named lists of taps (``sweep.sets``).
    ``asked`` is what the command line said, the file and its overrides, to repeat in messages. ``written`` holds the
    texts whose values came from the environment.
    """

    sweep: tuple[Grid, ...] = ()
    only: str = ""
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: tuple[str, ...] = field(default=(), compare=False, repr=False)
    written: Written = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as an experiment file would hold them."""
        keys = Schema(**{f.name: getattr(self, f.name) for f in fields(Schema)})
        content = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(keys)))
        grids = [{key: _plain(axis) for key, axis in grid.items()} for grid in self.sweep]
        further = {"select": self.only, "sets": {name: list(taps) for name, taps in self.sets.items()}}
        said = {key: value for key, value in further.items() if value}
        content["sweep"] = said | {"grids": grids} if said else grids
        return content

    def stored(self) -> dict[str, Any]:
        """``to_dict`` as it is written to files: values from the environment are the texts that read them."""
        content: dict[str, Any] = as_written(self.to_dict(), self.written)
        return content

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.stored()))


def _plain(axis: Axis) -> Any:
    if isinstance(axis, Conditional):
        return {"values": list(axis.values), "if": axis.condition}
    return list(axis)
