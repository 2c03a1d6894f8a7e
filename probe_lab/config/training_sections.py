"""Sections of an experiment that decide its scores and its probes: evaluators, text, data, probe and training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe_lab.config.declare import SEED, SHARE, Limits, key, positive, section_field, up_to
from probe_lab.config.world_sections import STEPS, Precision
from probe_lab.data.scalars import Scalar
from probe_lab.data.splits import SplitFractions
from probe_lab.losses import TERMS

Backend = Literal["native", "reference"]
Head = Literal["plain", "text"]
Negatives = Literal["prompts", "all"]


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
