"""The sections of an experiment that say what is generated and kept: model, prompts, sampling, capture, cache."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

Scheduler = Literal["default", "ddim", "dpm++", "euler", "euler-a", "flow-euler", "lcm", "unipc"]
Offload = Literal["none", "model", "sequential"]
Precision = Literal["float32", "bfloat16", "float16"]


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

    ``path`` is a file (its suffix tells the format) or, for ``hub``, a dataset id. ``column`` names the column of a
    table or the key of a record, ``field`` the keys that lead to the texts of another JSON (``images.sentences.raw``).
    ``quoting`` says whether cells of a CSV or TSV stand in quotes; ``auto``: a CSV's do, a TSV's where its header's do.
    ``split`` is that of a hub dataset (empty: ``train``) or of Karpathy's images (empty: all). ``count`` limits the
    distinct prompts; ``shuffle`` draws them, seeded by the experiment's seed, instead of taking the first ones.
    ``exclude`` leaves out what says the same as a prompt of other experiments, caches, files or ``shapes:SEED:COUNT``.
    """

    source: Literal["shapes", "file", "hub"] = "shapes"
    path: str = ""
    column: str = "prompt"
    field: str = ""
    quoting: Literal["auto", "csv", "none"] = "auto"
    split: str = ""
    revision: str = ""
    per_image: Literal["first", "all"] = "first"
    shuffle: bool = False
    count: int = 300
    seeds: int = 8
    exclude: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Sampling:
    """How the pipeline is run. ``height`` and ``width`` in pixels.

    ``scheduler`` ``default`` is the backbone's own. ``device`` ``cuda`` is all cards, one process each, as far as
    ``workers`` goes. ``max_sequence_length`` 0 is the pipeline's own limit of text tokens. ``offload`` keeps in the
    accelerator's memory only the model (``model``) or the layer (``sequential``) that runs. Without ``safety_checker``
    that of the backbone, if it has one, is left out.
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
    safety_checker: bool = True

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
