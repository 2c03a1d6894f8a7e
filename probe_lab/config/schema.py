"""The typed experiment: frozen dataclasses with every key and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf

from probe_lab.config.declare import SEED, SHARE, Limits, key, positive, section_field, up_to
from probe_lab.config.environment import Written, as_written
from probe_lab.config.judge import JudgeConfig
from probe_lab.config.labels import LabelsConfig
from probe_lab.config.world import STEPS, Backbone, CacheConfig, CaptureConfig, Precision, Prompts, Sampling
from probe_lab.data.scalars import Scalar
from probe_lab.data.splits import SplitFractions
from probe_lab.losses import TERMS

Backend = Literal["native", "reference"]
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
    """Where an evaluator's model comes from; an empty key is the evaluator's own default."""

    checkpoint: str = key("", "Weights of the model. A local file or folder, or the id of a hub repository.")
    base: str = key("", "Weights of the model that a head (`aesthetic`) sits on.")
    architecture: str = key("", "Name of the model in open_clip, for evaluators that exist in several sizes.")
    backend: Backend = key("native", "What computes the score. `reference`: the original package.")


@dataclass(frozen=True)
class Scoring:
    """How evaluators with a model run."""

    device: str = key("cpu", "Where evaluators run, `cuda` for instance.")
    dtype: Precision = key("float32", "Number format that evaluators compute in.")
    batch_size: int = key(64, "Images that are scored at a time.", positive(65_536))
    preview_decoder: str = key(
        "",
        "Tiny autoencoder that decodes the previews of `tiny_preview`. A folder, or an id of the hub, "
        "`madebyollin/taesdxl` for instance.",
    )
    resident: bool = key(False, "Keep all models in memory instead of one at a time.")
    models: dict[str, EvaluatorModel] = key({}, "What differs for one evaluator, by its name in `evaluators`.")


BACKBONE = "backbone"
"""The ``text.encoder`` that `generate` caches."""


@dataclass(frozen=True)
class Text:
    """Whose text embeddings InfoNCE and text-reading probes use."""

    encoder: str = key(BACKBONE, "Text encoder to use. The `backbone`'s, or that of an evaluator by its name.")


@dataclass(frozen=True)
class Data:
    """How batches are made."""

    batch_prompts: int = key(16, "Prompts per batch, with all their seeds each.", positive(10**6))
    residency: Literal["stream", "memory", "auto"] = key(
        "auto",
        "How arrays are read. `memory`: once, into memory; `stream`: by shards; `auto`: by the memory there is.",
        in_result=False,
    )
    num_workers: int = key(0, "Processes that read shards ahead. 0: none.", up_to(4_096), in_result=False)
    train_prompts: int = key(
        0,
        "Prompts of the training split that a probe is trained on. 0: all; of one training seed, fewer are among more.",
        up_to(10**8),
    )
    split: SplitFractions = section_field(SplitFractions)


@dataclass(frozen=True)
class ProbeConfig:
    """What a probe reads, how it is built and which objective it is trained with."""

    model: str = key("cnn", "Architecture of the probe, or one of the baselines.")
    step: int = key(5, "Step at which the probe reads, and at which it is evaluated.", allowed=STEPS)
    taps: list[str] = key([], "Taps that the probe reads, among those of `capture.taps`.")
    evaluators: list[str] = key([], "Evaluators that it predicts, one head each. Empty: all of the experiment.")
    loss: str = key(
        "listwise",
        "Training objective, a sum of terms. `listwise+infonce` for instance.",
        allowed=f"a sum of {', '.join(TERMS)} or `module:attribute`",
    )
    within_prompt: bool = key(True, "Let ranking terms compare only the seeds of one prompt with each other.")
    text: Literal["none", "pooled", "tokens"] = key("tokens", "Text embeddings of the prompt that it reads.")
    width: int = key(64, "Channels of its levels; the first has half as many.", positive(65_536))
    depth: int = key(2, "Levels of its encoder, each on half the grid of the one before.", positive(1_000))
    embedding: int = key(128, "Size of the embedding u that its heads read.", positive(65_536))
    dropout: float = key(0.3, "Share of features set to 0 in training.", SHARE)
    temperature: float = key(
        0.5, "Temperature τ of `listwise` and `spearman` (τ_max of Probe-Select), annealed.", positive(10**6)
    )
    margin: float = key(
        0.5,
        "Margin α of `listwise` (α_max of Probe-Select), annealed, in standard deviations of the target.",
        up_to(10**6),
    )
    alignment: float = key(10.0, "Weight λ of the term `infonce`.", up_to(10**9))
    nce_temperature: float = key(0.1, "Temperature of InfoNCE in the first epoch.", positive(10**6))
    ema: float = key(0.99, "Decay of the moving average of the weights. 0 switches it off.", SHARE)
    oversample: float = key(
        0.0,
        "Repeat training prompts of low mean score in place of high ones. The lowest weighs 1 + `oversample` times the "
        "highest.",
        up_to(10**6),
    )
    scalars: list[str] = key(
        [],
        "Scores that `cnn` and `linear` read beside the taps. `preview:<evaluator>` is its score of the picture that "
        "the predicted x₀ of the step decodes to, `lookahead:<evaluator>` of the tap `lookahead`, "
        "`tiny_preview:<evaluator>` of the x₀ as `scoring.preview_decoder` decodes it.",
    )
    steps: list[int] = key(
        [],
        "Steps that one probe is trained on, which is told the step. `step` is one of them; empty: it alone.",
        allowed=STEPS,
    )
    head: Head = key(
        "plain",
        "What the heads read. `plain`: the embedding u; `text`: with the prompt's e also [u, e, u·e, |u − e|], and "
        "InfoNCE compares these two.",
    )
    correlation: float = key(1.0, "Weight of the term `pearson`.", up_to(10**9))
    nce_temperature_ratio: float = key(
        1.0,
        "Temperature of InfoNCE in the last epoch, relative to the first. It changes linearly.",
        positive(10**6),
    )
    nce_negatives: Negatives = key("prompts", "Negatives of InfoNCE. Samples of other prompts, or all other samples.")
    ema_warmup: bool = key(True, "Raise the decay of the moving average to `ema` over the first updates.")
    judge: bool = key(
        False,
        "Add what a picture judge says of `x0` to what `cnn` or `linear` predicts. `probe-lab judge` trains it.",
    )
    shuffles: int = key(
        10,
        "Trainings of `shuffled_labels`, each on other permutations. A single one differs from 0 by luck too often to "
        "be a control.",
        positive(10_000),
    )

    @property
    def trained_steps(self) -> list[int]:
        """The steps whose arrays it is trained on."""
        return self.steps or [self.step]

    @property
    def previews(self) -> list[Scalar]:
        """Which scores of which previews the ``scalars`` are."""
        return [Scalar.parse(scalar) for scalar in self.scalars]


@dataclass(frozen=True)
class Trainer:
    """How a probe is trained."""

    max_epochs: int = key(12, "Most epochs of a training.", positive(10**6))
    learning_rate: float = key(
        2e-3, "Highest learning rate. It rises to it, and then falls by a cosine.", positive(10**9)
    )
    weight_decay: float = key(0.1, "Weight decay.", up_to(10**9))
    gradient_clip: float = key(1.0, "Largest norm of the gradient. 0: any.", up_to(10**9))
    seed: int = key(0, "Training seed. It decides the initial weights and the order of batches.", SEED)
    devices: int = key(1, "Processes that share one training, by DDP.", positive(4_096))
    accelerator: Literal["auto", "cpu", "gpu"] = key("cpu", "Hardware to train on.", in_result=False)
    accumulate: int = key(1, "Batches per optimizer step, which takes the mean of their gradients.", positive(10**6))
    patience: int = key(0, "Epochs without a better validation value that end a training. 0: all run.", up_to(10**6))


@dataclass(frozen=True)
class Metrics:
    """How predictions are judged."""

    auc_threshold: float | None = key(
        None,
        "Score above which an image counts as good, in the evaluators' own units. null: the median of the training "
        "split.",
        allowed="a finite number, or null",
    )


@dataclass(frozen=True)
class Halving:
    """Successive halving over the cells of a sweep (ASHA, its stopping variant). Baselines are always trained to their
    end."""

    first: int = key(0, "Epochs until the first cut. 0 switches halving off.", up_to(10**6))
    factor: int = key(
        3,
        "At each cut, one of so many cells goes on. The epochs until the next cut grow by the same factor.",
        Limits(10**6, least=2),
    )
    by: list[str] = key([], "Keys whose values compete apart, `probe.step` for instance.")


@dataclass(frozen=True)
class Select:
    """How `probe-lab select` spends denoiser calls. Candidates are chosen where the probe was trained, unless a
    schedule or a budget says otherwise."""

    candidates: int = key(5, "Images that start for every prompt.", positive(10**5))
    keep: int = key(1, "Images that are finished for every prompt.", positive(10**5), allowed="1 to select.candidates")
    schedule: list[dict[str, int]] = key([], "Cuts. `{step: 2, keep: 6}` each.")
    budget: int = key(0, "Denoiser calls per prompt, for which the schedule is found. 0: none.", up_to(10**9))
    by: str = key(
        "",
        "What chooses. An evaluator, weights of several (`a=0.7,b=0.3`) or `pareto`; empty: the first evaluator that "
        "the probe predicts.",
    )


@dataclass(frozen=True)
class TradeoffConfig:
    """What `probe-lab tradeoff` measures."""

    prompts: int = key(100, "Prompts of the test split to measure on, the first ones.", positive(10**8))
    candidates: list[int] = key(
        [2, 3, 5, 8, 12, 20, 30, 50], "Numbers of candidates to compare.", up_to(10**5), allowed="2 to 100,000 each"
    )
    fewer_steps: list[int] = key(
        [5, 7, 10, 15],
        "Sampling steps of the rival that finishes all candidates in fewer. None, or 0, leaves it out.",
        up_to(10**5),
    )
    thin: float = key(
        0.0,
        "Share of the candidates that the cascade's probe leaves for the lookahead, at least. 0 chooses it on as many "
        "validation prompts.",
        SHARE,
    )
    timed: list[int] = key(
        [2, 5, 8, 20, 50], "Numbers of `candidates` whose time and operations are measured too.", up_to(10**5)
    )
    timed_prompts: int = key(8, "Prompts whose wall-clock is measured.", positive(10**8))
    rounds: int = key(3, "Rounds of the wall-clock, in which all ways take turns.", up_to(10_000))


@dataclass(frozen=True)
class Engine:
    """Where sweep, generate and score run."""

    name: str = key("local", "What runs the work. Processes of this machine, or `ray`, which also spans machines.")
    address: str = key("", "Address of a running Ray cluster. `auto`: the one of this machine; empty starts one here.")
    cpus: float = key(1.0, "Cores that one Ray worker reserves.", positive(10_000))
    gpus: float = key(0.0, "GPUs that one Ray worker reserves; a share is allowed.", up_to(10_000))


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
    """Which table or figure of a paper `probe-lab report` draws, beside its published numbers."""

    exhibit: str = key(
        "", "Table or figure to draw instead of the whole report. Empty: the whole report.", allowed=", ".join(EXHIBITS)
    )


@dataclass(frozen=True)
class Tracking:
    """Where MLflow keeps its runs."""

    uri: str = key(
        "sqlite:///mlflow.db",
        "Address of MLflow's store. The environment's `MLFLOW_TRACKING_URI` wins; an empty one switches tracking off.",
    )
    system_metrics: bool = key(False, "Sample load and memory of the sweep's machine into the parent run.")


@dataclass(frozen=True)
class Schema:
    """Every key of an experiment but its sweep, whose values have as many types as there are keys."""

    name: str = key(
        "", "Name of the experiment, of its folders and its runs. Empty: that of the file.", in_result=False
    )
    seed: int = key(0, "Seed of the prompts that are drawn and of every image's noise.", SEED)
    backbone: Backbone = section_field(Backbone)
    prompts: Prompts = section_field(Prompts)
    sampling: Sampling = section_field(Sampling)
    capture: CaptureConfig = section_field(CaptureConfig, in_result=False)
    cache: CacheConfig = section_field(CacheConfig)
    evaluators: list[str] = key(
        ["shapes_reward"],
        "Evaluators that score the images. `probe-lab evaluators` lists them; your own is `module:class`.",
        allowed="at least one",
    )
    scoring: Scoring = section_field(Scoring)
    labels: LabelsConfig = section_field(LabelsConfig, in_result=False)
    judge: JudgeConfig = section_field(JudgeConfig)
    text: Text = section_field(Text)
    data: Data = section_field(Data)
    probe: ProbeConfig = section_field(ProbeConfig)
    trainer: Trainer = section_field(Trainer)
    metrics: Metrics = section_field(Metrics)
    halving: Halving = section_field(Halving, in_result=False)
    select: Select = section_field(Select, in_result=False)
    tradeoff: TradeoffConfig = section_field(TradeoffConfig, in_result=False)
    engine: Engine = section_field(Engine, in_result=False)
    paper: Paper = section_field(Paper, in_result=False)
    tracking: Tracking = section_field(Tracking, in_result=False)
    workers: int = key(2, "Processes that generate, score and train at a time.", positive(4_096), in_result=False)
    runs: str = key("runs", "Folder of results.", in_result=False)
    reports: str = key("reports", "Folder of reports.", in_result=False)
    report_sections: list[str] = key(
        [], "Further sections of the report, of your own.", allowed="names of `module:attribute`", in_result=False
    )
    plugins: list[str] = key(
        [],
        "Python files to import first, so that `module:attribute` finds them. Paths are relative to the file of the "
        "experiment.",
        in_result=False,
    )

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
    def judged_steps(self) -> list[int]:
        """The steps whose x₀ picture judges learn to read, in order."""
        return sorted({*self.labels.steps, *self.judge.steps})

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
