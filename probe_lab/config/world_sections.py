"""The sections of an experiment that say what is generated and kept: model, prompts, sampling, capture, cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe_lab.config.declare import key, positive, up_to

Scheduler = Literal["default", "ddim", "dpm++", "euler", "euler-a", "flow-euler", "lcm", "unipc"]
Offload = Literal["none", "model", "sequential"]
Precision = Literal["float32", "bfloat16", "float16"]
STEPS = "1 to sampling.steps"


@dataclass(frozen=True)
class Backbone:
    """Which model generates: a built-in one by its name (`backbone: tiny-sd`), or a family and where its pipeline is
    (`backbone: {family: sdxl, path: FOLDER}`)."""

    name: str = key("", "Name of a built-in model.")
    family: str = key("", "Family of the model, `sdxl` for instance; with `path`, in place of a name.")
    path: str = key("", "Folder of a diffusers pipeline, or its id on the hub.")

    @property
    def label(self) -> str:
        """The name that manifests and reports show."""
        return self.name or f"{self.family}:{self.path}"


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from, and how many seeds each one gets."""

    source: str = key(
        "shapes", "Where prompts come from. Captions of the shapes world, a file, a dataset of the hub, or your own."
    )
    path: str = key("", "File of prompts, whose suffix tells the format, or with `source: hub` the id of a dataset.")
    column: str = key("prompt", "Column of a table, or key of a record, that holds the prompt.")
    field: str = key("", "Keys that lead to the texts of another JSON, `images.sentences.raw` for instance.")
    quoting: Literal["auto", "csv", "none"] = key(
        "auto",
        "Whether the cells of a CSV or TSV stand in quotes. `auto`: those of a CSV do, those of a TSV where its "
        "header's do.",
    )
    split: str = key("", "Split of the dataset to read. Empty: `train` of a hub dataset, all of Karpathy's images.")
    revision: str = key("", "Commit, tag or branch of a hub dataset.")
    per_image: Literal["first", "all"] = key("first", "Which captions of an image are prompts.")
    shuffle: bool = key(False, "Draw the prompts by the experiment's seed instead of taking the first ones.")
    count: int = key(300, "Most distinct prompts to use.", positive(10**8))
    seeds: int = key(8, "Seeds per prompt, one image each.", positive(10**6))
    exclude: list[str] = key(
        [],
        "Leave out prompts that say the same as those of other experiments, caches, files or `shapes:SEED:COUNT`.",
    )


@dataclass(frozen=True)
class Sampling:
    """How the pipeline is run."""

    steps: int = key(25, "Sampling steps of an image.", positive(10_000))
    guidance: float = key(2.0, "Scale of classifier-free guidance.", up_to(10_000))
    scheduler: Scheduler = key("ddim", "Sampler. `default`: the backbone's own.")
    height: int = key(64, "Height of an image in pixels, divisible by 8.", positive(16_384))
    width: int = key(64, "Width of an image in pixels, divisible by 8.", positive(16_384))
    batch_size: int = key(
        32, "Images that one process draws at a time. It changes no image.", positive(65_536), in_result=False
    )
    dtype: Precision = key("float32", "Number format that the pipeline computes in.")
    device: str = key(
        "cpu",
        "Where the pipeline runs. `cuda`: all cards, one process each, as far as `workers` goes.",
        in_result=False,
    )
    max_sequence_length: int = key(0, "Most text tokens that the pipeline reads. 0: its own limit.", up_to(10**6))
    offload: Offload = key(
        "none",
        "What the accelerator holds at a time. `model`: the model that runs, `sequential`: its layer that runs.",
        in_result=False,
    )
    vae_tiling: bool = key(False, "Decode images in tiles, which takes less memory.")
    vae_slicing: bool = key(False, "Decode images one by one, which takes less memory.")
    safety_checker: bool = key(True, "Keep the backbone's safety checker, if it has one.")

    @property
    def on_cpu(self) -> bool:
        return self.device.partition(":")[0] == "cpu"


@dataclass(frozen=True)
class CaptureConfig:
    """Which tensors are kept."""

    steps: list[int] = key([5], "Steps whose tensors are kept. 1 is the first denoiser call.", allowed=STEPS)
    taps: list[str] = key(
        [],
        "What is read at each step. `<module path>/attention` or `/activation`, `latent`, `x0` or `lookahead`; a "
        "pattern (`up_blocks.*/attention`); or `paper`, the set that the papers read.",
    )
    normalize: Literal["all", "text"] = key("all", "Keys over which attention is normalised.")
    tokens: int = key(0, "Most text tokens of an attention map. 0: all.", up_to(10**6))
    size: int = key(0, "Longest side of a map, by means over positions. 0: as it is.", up_to(16_384))
    images: bool = key(
        True, "Finish and keep the images. Without, a generation stops after the last of the steps and decodes nothing."
    )


@dataclass(frozen=True)
class CacheConfig:
    """Where the cache lies and how it is stored."""

    root: str = key("data_cache", "Folder of all caches.", in_result=False)
    name: str = key("", "Name of this cache. Empty: that of the experiment.")
    shard_size: int = key(512, "Images per shard, the unit of resuming.", positive(10**6), in_result=False)
    dtype: Precision = key("float16", "Number format of stored tensors.")
