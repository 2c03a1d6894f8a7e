"""The typed experiment: frozen dataclasses with every key, its default and its limits.

An experiment file states only what differs. ``load_experiment`` reads it, applies ``key=value`` overrides (an OmegaConf
dotlist) and refuses unknown keys, wrong types and impossible values before any work starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from probe_lab.data.splits import SplitFractions
from probe_lab.errors import ConfigError, nearest
from probe_lab.losses import parse_loss

EXPERIMENTS = Path("experiments")
SHIPPED = Path(__file__).parents[1] / "experiments"
"""Those of the checkout, also when a command is started in another folder."""

Model = Literal["cnn", "linear", "prompt_only", "attention_entropy", "noisy_latent", "x0_preview", "shuffled_labels"]
Scheduler = Literal["default", "ddim", "dpm++", "euler", "euler-a", "flow-euler", "lcm", "unipc"]
Offload = Literal["none", "model", "sequential"]
Precision = Literal["float32", "bfloat16", "float16"]
Backend = Literal["native", "reference"]
Axis = tuple[Any, ...]
"""The values that one key takes in a sweep; a value is whatever the key holds, a list of taps for instance."""


@dataclass(frozen=True)
class Backbone:
    """Which model generates: the name of a built-in one, or a family and where its pipeline folder is."""

    name: str = ""
    family: str = ""
    path: str = ""

    @property
    def label(self) -> str:
        """The name that manifests and reports show."""
        return self.name or f"{self.family}:{self.path}"


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from, and how many seeds each one gets.

    ``path`` is a file (its suffix tells the format) or, for ``hub``, a dataset id. ``count`` limits the distinct
    prompts; ``shuffle`` draws them, seeded by the experiment's seed, instead of taking the first ones.
    """

    source: Literal["shapes", "file", "hub"] = "shapes"
    path: str = ""
    column: str = "prompt"
    split: str = "train"
    revision: str = ""
    per_image: Literal["first", "all"] = "first"
    shuffle: bool = False
    count: int = 300
    seeds: int = 8


@dataclass(frozen=True)
class Sampling:
    """How the pipeline is run. ``height`` and ``width`` in pixels.

    ``scheduler`` ``default`` is the backbone's own. ``device`` ``cuda`` is all cards, one process each, as far as
    ``workers`` goes. ``max_sequence_length`` 0 is the pipeline's own limit of text tokens. ``offload`` keeps in the
    accelerator's memory only the model (``model``) or the layer (``sequential``) that runs.
    """

    steps: int = 25
    guidance: float = 2.0
    scheduler: Scheduler = "ddim"
    height: int = 64
    width: int = 64
    batch_size: int = 32
    dtype: Precision = "float32"
    device: str = "cpu"
    max_sequence_length: int = 0
    offload: Offload = "none"
    vae_tiling: bool = False
    vae_slicing: bool = False

    @property
    def on_cpu(self) -> bool:
        return self.device.partition(":")[0] == "cpu"


@dataclass(frozen=True)
class CaptureConfig:
    """Which tensors are kept: 1-based steps, and taps as ``<module path>/<kind>``, ``latent`` or ``x0``.

    A tap may also be a pattern (``up_blocks.*/attention``) or ``paper``, the set that the papers read. Attention is
    over ``all`` keys, or normalised over those of the ``text``. ``tokens`` and ``size`` (longest side) bound what a
    map weighs; 0 leaves it. Without ``images`` a generation stops after the last of the steps: no image is finished,
    decoded or kept.
    """

    steps: list[int] = field(default_factory=lambda: [5])
    taps: list[str] = field(default_factory=list)
    normalize: Literal["all", "text"] = "all"
    tokens: int = 0
    size: int = 0
    images: bool = True


@dataclass(frozen=True)
class CacheConfig:
    """Where the cache lies and how it is stored."""

    root: str = "data_cache"
    name: str = ""
    shard_size: int = 512
    dtype: Precision = "float16"


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


@dataclass(frozen=True)
class Text:
    """Whose text embeddings InfoNCE and text-reading probes use: the ``backbone``'s, or an evaluator's by its name."""

    encoder: str = "backbone"


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


@dataclass(frozen=True)
class Trainer:
    """How a probe is trained. ``seed`` is the training seed: initial weights and the order of batches."""

    max_epochs: int = 12
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    seed: int = 0
    devices: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "cpu"


@dataclass(frozen=True)
class Tracking:
    """Where MLflow keeps its runs; the environment's ``MLFLOW_TRACKING_URI`` wins, an empty one switches it off."""

    uri: str = "sqlite:///mlflow.db"


@dataclass(frozen=True)
class Experiment:
    """One experiment file with its overrides. ``sweep`` is a union of grids, each a mapping from key to values."""

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
    tracking: Tracking = field(default_factory=Tracking)
    workers: int = 2
    runs: str = "runs"
    reports: str = "reports"
    sweep: tuple[Mapping[str, Axis], ...] = ()

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache.root) / (self.cache.name or self.name)

    @property
    def runs_folder(self) -> Path:
        return Path(self.runs) / self.name

    @property
    def report_folder(self) -> Path:
        return Path(self.reports) / self.name

    @property
    def probe_evaluators(self) -> list[str]:
        """The evaluators that probes predict: the probe's own list, or all."""
        return list(self.probe.evaluators or self.evaluators)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as an experiment file would hold them."""
        content = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(_without_sweep(self))))
        content["sweep"] = [{key: list(axis) for key, axis in grid.items()} for grid in self.sweep]
        return content

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.to_dict()))


@dataclass(frozen=True)
class _Schema(Experiment):
    """The experiment without its sweep, whose values have as many types as there are keys."""

    sweep: Any = ()


def _without_sweep(experiment: Experiment) -> _Schema:
    return _Schema(**{f.name: getattr(experiment, f.name) for f in fields(experiment) if f.name != "sweep"})


def load_experiment(name: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file, or the one of that name in ``experiments/``, with ``key=value`` overrides.

    Raises:
        ConfigError: no such file, broken YAML, an unknown key, a wrong type or an impossible value.
    """
    path = _find(Path(name))
    try:
        content = OmegaConf.load(path)
        # "key=" means the empty string, not YAML's null.
        changes = OmegaConf.from_dotlist([f"{text}''" if text.endswith("=") else text for text in overrides or []])
    except Exception as error:  # YAML errors come from another library and in many classes
        raise ConfigError(f"{path} or its overrides cannot be read: {_one_line(error)}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} holds no keys: an experiment is a YAML mapping, see experiments/quickstart.yaml")
    return build_experiment(content, changes, origin=str(path), default_name=path.stem)


def build_experiment(
    content: DictConfig, changes: DictConfig, *, origin: str = "the experiment", default_name: str = ""
) -> Experiment:
    """Merge file content and overrides into a checked ``Experiment``; see ``load_experiment``."""
    for part in (content, changes):
        if isinstance(part.get("backbone"), str):
            part["backbone"] = {"name": part["backbone"], "family": "", "path": ""}
        elif isinstance(part.get("backbone"), DictConfig) and "family" in part["backbone"]:
            part["backbone"] = {"name": "", **part["backbone"]}  # it replaces a built-in one of the file
    _refuse_unknown(content, Experiment, origin)
    _refuse_unknown(changes, Experiment, "the overrides")
    try:
        if "sweep" in changes:  # a sweep replaces the file's, whose grids it could not be merged with
            content = OmegaConf.masked_copy(content, [str(key) for key in content if key != "sweep"])
        merged = cast(DictConfig, OmegaConf.merge(content, changes))
        sweep = _grids(merged.pop("sweep", None))
        typed = OmegaConf.merge(OmegaConf.structured(_Schema), merged)
        schema = cast(_Schema, OmegaConf.to_object(typed))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        raise ConfigError(f"'{key}' in {origin} is not valid: {_one_line(error)}") from error
    values = {f.name: getattr(schema, f.name) for f in fields(schema)}
    values |= {"sweep": sweep, "name": schema.name or default_name}
    experiment = Experiment(**values)
    _check(experiment)
    return experiment


def with_changes(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with some keys (dotted names) set to other values, checked again; its sweep is dropped.

    A single string for a key that holds a list is a list of one: a sweep over ``probe.taps`` may name plain taps.
    """
    content = OmegaConf.create(experiment.to_dict() | {"sweep": []})
    update = OmegaConf.create({})
    for key, value in changes.items():
        one_of_a_list = isinstance(value, str) and isinstance(OmegaConf.select(content, key), ListConfig)
        OmegaConf.update(update, key, [value] if one_of_a_list else value, force_add=True)
    return build_experiment(content, update, origin=f"a cell of {experiment.name}")


def known_keys(cls: type = Experiment, prefix: str = "") -> set[str]:
    """Every dotted key of an experiment, sections included."""
    keys: set[str] = set()
    for entry in fields(cls):
        keys.add(prefix + entry.name)
        kind = _section(cls, entry.name)
        if kind is not None:
            keys |= known_keys(kind, f"{prefix}{entry.name}.")
    return keys


def _section(cls: type, name: str) -> type | None:
    """The dataclass that a field holds, or None for a plain value."""
    default = getattr(cls(), name)
    return type(default) if is_dataclass(default) else None


def _find(name: Path) -> Path:
    for candidate in [name, EXPERIMENTS / name, EXPERIMENTS / f"{name}.yaml", SHIPPED / f"{name}.yaml"]:
        if candidate.is_file():
            return candidate
    known = {
        str(path.relative_to(folder).with_suffix(""))
        for folder in (EXPERIMENTS, SHIPPED)
        for path in folder.rglob("*.yaml")
    }
    raise ConfigError(f"there is no experiment '{name}': {nearest(str(name), known)}")


def _refuse_unknown(content: DictConfig, cls: type, origin: str, prefix: str = "") -> None:
    names = {entry.name for entry in fields(cls)}
    for key in map(str, content):
        if key not in names:
            raise ConfigError(f"unknown key '{prefix}{key}' in {origin}: {nearest(key, names)}")
        kind, value = _section(cls, key), content._get_node(key)
        if kind is not None:
            if not isinstance(value, DictConfig):
                raise ConfigError(f"'{prefix}{key}' in {origin} is a section: write '{prefix}{key}.<key>'")
            _refuse_unknown(value, kind, origin, f"{prefix}{key}.")


def _grids(sweep: DictConfig | ListConfig | None) -> tuple[Mapping[str, Axis], ...]:
    """One mapping, or a list of mappings, from dotted key to its list of values."""
    content = OmegaConf.to_container(sweep, resolve=True) if sweep is not None else []
    grids: list[dict[str, Axis]] = []
    known = known_keys()
    for grid in content if isinstance(content, list) else [content]:
        if not isinstance(grid, dict):
            raise ConfigError(f"'sweep' holds '{grid!s}': it is a mapping, or a list of mappings, from key to values")
        for key, values in grid.items():
            if key not in known:
                raise ConfigError(f"unknown key '{key!s}' in sweep: {nearest(str(key), known)}")
            if not isinstance(values, list) or not values:
                raise ConfigError(f"the sweep over '{key!s}' holds '{values}': write a list with at least one value")
        grids.append({str(key): tuple(values) for key, values in grid.items()})
    return tuple(grids)


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check(experiment: Experiment) -> None:
    """Limits that a type cannot state."""
    sampling, probe, trainer = experiment.sampling, experiment.probe, experiment.trainer
    positive = {
        "prompts.count": experiment.prompts.count,
        "prompts.seeds": experiment.prompts.seeds,
        "sampling.steps": sampling.steps,
        "sampling.height": sampling.height,
        "sampling.width": sampling.width,
        "sampling.batch_size": sampling.batch_size,
        "cache.shard_size": experiment.cache.shard_size,
        "scoring.batch_size": experiment.scoring.batch_size,
        "data.batch_prompts": experiment.data.batch_prompts,
        "probe.width": probe.width,
        "probe.depth": probe.depth,
        "probe.embedding": probe.embedding,
        "probe.temperature": probe.temperature,
        "probe.nce_temperature": probe.nce_temperature,
        "trainer.max_epochs": trainer.max_epochs,
        "trainer.devices": trainer.devices,
        "trainer.learning_rate": trainer.learning_rate,
        "workers": experiment.workers,
    }
    for key, value in positive.items():
        if not value > 0:  # NaN too
            raise ConfigError(f"'{key}' is {value}: it must be greater than 0")
    for key, step in [("capture.steps", s) for s in experiment.capture.steps] + [("probe.step", probe.step)]:
        if not 1 <= step <= sampling.steps:
            raise ConfigError(
                f"'{key}' names step {step}: steps are 1 to {sampling.steps} (sampling.steps), 1 is the first call"
            )
    for key, share in {"probe.ema": probe.ema, "probe.dropout": probe.dropout}.items():
        if not 0 <= share < 1:
            raise ConfigError(f"'{key}' is {share}: it must be at least 0 and below 1")
    for key, amount in {
        "sampling.guidance": sampling.guidance,
        "sampling.max_sequence_length": sampling.max_sequence_length,
        "probe.margin": probe.margin,
        "probe.alignment": probe.alignment,
        "probe.oversample": probe.oversample,
        "trainer.gradient_clip": trainer.gradient_clip,
        "trainer.weight_decay": trainer.weight_decay,
        "data.num_workers": experiment.data.num_workers,
        "capture.tokens": experiment.capture.tokens,
        "capture.size": experiment.capture.size,
    }.items():
        if not amount >= 0:
            raise ConfigError(f"'{key}' is {amount}: it must not be negative")
    for key, side in {"sampling.height": sampling.height, "sampling.width": sampling.width}.items():
        if side % 8:
            raise ConfigError(f"'{key}' is {side}: diffusers pipelines draw sides that 8 divides")
    if trainer.devices > 1:
        raise ConfigError(f"'trainer.devices' is {trainer.devices}: a probe is trained on one device so far")
    if not experiment.evaluators:
        raise ConfigError("'evaluators' is empty: name at least one, shapes_reward for instance")
    for evaluator in probe.evaluators:
        if evaluator not in experiment.evaluators:
            raise ConfigError(f"'probe.evaluators' names '{evaluator}': {nearest(evaluator, experiment.evaluators)}")
    _check_prompts(experiment.prompts)
    if not (experiment.backbone.name or (experiment.backbone.family and experiment.backbone.path)):
        raise ConfigError("'backbone' is empty: name a built-in one, tiny-sd for instance, or {family: ..., path: ...}")
    parse_loss(probe.loss)


def _check_prompts(prompts: Prompts) -> None:
    if prompts.source == "shapes" and prompts.path:
        raise ConfigError(
            f"'prompts.path' is '{prompts.path}' and prompts.source=shapes reads none: "
            "set prompts.source=file or hub, or empty it (prompts.path=)"
        )
    if prompts.source != "shapes" and not prompts.path:
        wanted = "a file of prompts" if prompts.source == "file" else "the id of a dataset, owner/name"
        raise ConfigError(f"'prompts.path' is empty: prompts.source={prompts.source} needs {wanted}")
