"""A simulated experiment: predictions of known quality, written in the files that a sweep and a cache
leave."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw

from probe_lab.cache import CacheWriter, Manifest, write_scores
from probe_lab.metrics import evaluate
from probe_lab.report import build_report
from probe_lab.runs.table import write_results

sys.path.insert(0, str(Path(__file__).parent))  # chromium.py

ATTENTION = "up_blocks.1.attentions.0/attention"
TAPS = ("down_blocks.1.attentions.0/attention", ATTENTION, "up_blocks.1/activation")
COLOURS = ("red", "green", "blue", "purple", "orange")
TOKENS = 16


@dataclass(frozen=True)
class World:
    """The size of the simulated experiment, and what is trained in it."""

    prompts: int = 60
    seeds: int = 5
    steps: tuple[int, ...] = (1, 3, 5, 8)
    taps: tuple[str, ...] = TAPS
    losses: tuple[str, ...] = ("mse", "listwise", "listwise+infonce")
    training_seeds: int = 2
    evaluators: tuple[str, ...] = ("shapes_reward", "shapes_binding")
    baselines: tuple[str, ...] = (
        "prompt_only", "attention_entropy", "linear", "noisy_latent", "x0_preview", "shuffled_labels"
    )  # fmt: skip
    oversample: tuple[float, ...] = ()
    train_prompts: tuple[int, ...] = ()
    resamples: int = 60

    def samples(self) -> pd.DataFrame:
        prompt = np.repeat(np.arange(self.prompts), self.seeds)
        rows = np.arange(len(prompt))
        split = np.where(prompt % 5 == 3, "val", np.where(prompt % 5 == 4, "test", "train"))
        return pd.DataFrame(
            {
                "sample_id": rows,
                "prompt_id": prompt,
                "prompt": [_caption(p) for p in prompt],
                "seed": 1000 + rows,
                "split": split,
                "shard": 0,
                "row": rows,
            }
        )


def _objects(prompt: int) -> list[tuple[str, str]]:
    shapes = ("circle", "square", "triangle", "cross")
    pairs = [(colour, shape) for colour in COLOURS for shape in shapes]
    return [pairs[(7 * prompt + 3 * i) % len(pairs)] for i in range(1 + prompt % 3)]


def _caption(prompt: int) -> str:
    links = ("and", "left of", "above")
    words = [f"a {colour} {shape}" for colour, shape in _objects(prompt)]
    return words[0] + "".join(f" {links[(prompt + i) % 3]} {w}" for i, w in enumerate(words[1:]))


@dataclass(frozen=True)
class Cell:
    model: str
    step: int
    taps: tuple[str, ...]
    loss: str
    seed: int
    skill: float  # weight of what tells seeds apart
    prompt_skill: float
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        taps = "-".join(tap.replace("/", "_") for tap in self.taps) or "none"
        extra = "".join(f"-{key.rpartition('.')[2]}{value}" for key, value in self.extra.items())
        return f"{self.model}-{self.step}-{taps}-{self.loss or 'none'}{extra}-{self.seed}"


def _cells(world: World) -> Iterator[Cell]:
    rise = {1: 0.15, 3: 0.35, 5: 0.6, 8: 0.8}
    strength = dict(zip(world.taps, (0.6, 1.0, 0.85, 0.5, 0.7), strict=False))
    bonus = {"mse": 0.8, "listwise": 1.0, "listwise+infonce": 1.05, "pairwise": 0.95, "pearson": 0.9}
    for step in world.steps:
        for tap in world.taps:
            for loss in world.losses:
                if loss == "listwise" or step == 5:
                    for seed in range(world.training_seeds):
                        skill = rise.get(step, 0.9) * strength[tap] * bonus[loss]
                        yield Cell("cnn", step, (tap,), loss, seed, skill, 0.6)
    for value in world.oversample:
        for seed in range(world.training_seeds):
            extra: dict[str, object] = {"probe.oversample": value}
            yield Cell("cnn", 5, (ATTENTION,), "listwise", seed, 0.6, 0.6, extra)
    for size in world.train_prompts:
        for seed in range(world.training_seeds):
            for model, skill in (("cnn", 0.1 * size**0.4), ("linear", 0.3)):
                yield Cell(model, 5, (ATTENTION,), "listwise", seed, skill, 0.6, {"data.train_prompts": size})
    taps = {"linear": (ATTENTION,), "attention_entropy": (ATTENTION,), "noisy_latent": ("latent",)}
    skills = {"linear": 0.3, "attention_entropy": 0.06, "noisy_latent": 0.05, "x0_preview": 0.35}
    for model in world.baselines:
        prompt = {"prompt_only": 0.8, "shuffled_labels": 0.0}.get(model, 0.4)
        yield Cell(model, 5, taps.get(model, ()), "listwise", 0, skills.get(model, 0.0), prompt)


Array = npt.NDArray[np.float64]


def _truth(world: World, rng: np.random.Generator) -> tuple[Array, Array]:
    """How easy the prompt of each sample is, and how good the sample is among those of its prompt."""
    difficulty = rng.normal(size=world.prompts)[world.samples()["prompt_id"]]
    return difficulty, rng.normal(size=len(difficulty))


def _target(difficulty: Array, own: Array, evaluator: int) -> Array:
    wobble = np.random.default_rng(evaluator).normal(size=len(own))
    return 0.75 + 0.1 * difficulty + 0.09 * (own + 0.5 * wobble)


def write_runs(folder: Path, world: World) -> Path:
    """results.parquet and the files of every cell."""
    rng = np.random.default_rng(0)
    samples = world.samples()
    count = len(samples)
    difficulty, own = _truth(world, rng)
    scored = samples["split"].isin(["val", "test"]).to_numpy()
    rows = []
    for cell in _cells(world):
        parts, metrics = [], []
        for i, evaluator in enumerate(world.evaluators):
            target = _target(difficulty, own, i)
            noise = 0.0 if cell.model == "prompt_only" else 0.9
            prediction = cell.prompt_skill * difficulty + cell.skill * own + noise * rng.normal(size=count)
            frame = samples[["sample_id", "prompt_id", "seed", "split"]].assign(
                evaluator=evaluator, target=target, prediction=prediction
            )[scored]
            parts.append(frame)
            for split in ("val", "test"):
                part = frame[frame["split"] == split]
                found = evaluate(
                    part["prediction"],
                    part["target"],
                    part["prompt_id"],
                    threshold=0.75,
                    resamples=world.resamples,
                )
                metrics += [
                    {"evaluator": evaluator, "split": split, "metric": name, **dataclasses.asdict(interval)}
                    for name, interval in found.items()
                ]
        axes = {"probe.step": cell.step, "trainer.seed": cell.seed} | cell.extra
        home = folder / cell.name
        home.mkdir(parents=True)
        pd.concat(parts).to_parquet(home / "predictions.parquet", index=False)
        size = cell.extra.get("data.train_prompts")
        data = f"data:\n  train_prompts: {size}\n" if size else ""
        text = f"name: simulated\n{data}probe:\n  step: {cell.step}\n  loss: {cell.loss}\n"
        (home / "config.yaml").write_text(text)
        described = {
            "cell": cell.name,
            "model": cell.model,
            "step": cell.step,
            "loss": cell.loss,
            "seed": cell.seed,
        }
        content = described | {
            "taps": list(cell.taps),
            "config_hash": "0",
            "seconds": 3.5,
            "train_prompts": cell.extra.get("data.train_prompts", 36),
            "metrics": metrics,
        }
        (home / "metrics.json").write_text(json.dumps(content))
        tail = {"taps": "+".join(cell.taps), "axes": json.dumps(axes)}
        rows += [described | tail | row for row in metrics if row["split"] == "test"]
    write_results(folder, pd.DataFrame(rows))
    (folder / "failures.json").write_text("[]")
    return folder


def write_cache(folder: Path, world: World) -> Path:
    """Small arrays: attention as blobs where objects were drawn, activations that carry the picture,
    noise."""
    samples = world.samples()
    rng = np.random.default_rng(1)
    taps = {tap: (TOKENS, 8, 8) if tap.endswith("attention") else (6, 8, 8) for tap in world.taps}
    taps |= {"latent": (4, 8, 8)}
    manifest = Manifest(
        name="simulated", backbone="tiny-sd", scheduler="ddim", steps=25, guidance=2.0, height=32, width=32,
        dtype="float32", cache_dtype="float16", shard_size=len(samples), captured_steps=world.steps,
        taps=taps, prompts_sha256="0" * 64, seeds=world.seeds, count=len(samples), seed=0,
        code_version="0.1.0",
    )  # fmt: skip
    drawn = [_draw(_objects(int(prompt)), rng) for prompt in samples["prompt_id"]]
    pixels = [torch.from_numpy(np.asarray(image).copy()) for image, _ in drawn]
    pictures = torch.stack(pixels).float() / 255
    small = torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 4)
    arrays = {}
    for step in world.steps:
        for tap, shape in taps.items():
            noise = torch.from_numpy(rng.normal(size=(len(samples), *shape))).float()
            if tap.endswith("attention"):
                arrays[f"{step}/{tap}"] = _attention(samples, drawn, noise.abs() * 0.3 / step)
            elif tap == "latent":
                arrays[f"{step}/{tap}"] = noise
            else:
                arrays[f"{step}/{tap}"] = torch.cat([small, 1 - small], dim=1) * step / 8 + 0.2 * noise
    writer = CacheWriter(folder, manifest, samples)
    writer.write_shard(0, arrays, [_png(image) for image, _ in drawn])
    difficulty, own = _truth(world, np.random.default_rng(0))
    for i, evaluator in enumerate(world.evaluators):
        write_scores(folder, evaluator, samples["sample_id"], _target(difficulty, own, i), metadata={})
    return folder


Spots = list[tuple[int, int]]


def _draw(objects: list[tuple[str, str]], rng: np.random.Generator) -> tuple[Image.Image, Spots]:
    image = Image.new("RGB", (32, 32), "white")
    pen = ImageDraw.Draw(image)
    spots: Spots = []
    for colour, shape in objects:
        x, y = (int(v) for v in rng.integers(7, 25, size=2))
        spots.append((x, y))
        box = (x - 5, y - 5, x + 5, y + 5)
        if shape == "circle":
            pen.ellipse(box, fill=colour)
        elif shape == "square":
            pen.rectangle(box, fill=colour)
        elif shape == "triangle":
            pen.polygon([(x, y - 6), (x - 6, y + 5), (x + 6, y + 5)], fill=colour)
        else:
            pen.line((x - 5, y, x + 5, y), fill=colour, width=3)
            pen.line((x, y - 5, x, y + 5), fill=colour, width=3)
    return image, spots


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def _attention(samples: pd.DataFrame, drawn: list[tuple[Image.Image, Spots]], maps: torch.Tensor) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")).float() * 4 + 2
    for row, (caption, (_, spots)) in enumerate(zip(samples["prompt"], drawn, strict=True)):
        words = caption.split()
        maps[row, len(words) + 2 :] = 0.0  # padding
        things = [i for i, word in enumerate(words) if word in ("circle", "square", "triangle", "cross")]
        for i, (x, y) in zip(things, spots, strict=True):
            blob = torch.exp(-((grid[0] - y) ** 2 + (grid[1] - x) ** 2) / 40)
            maps[row, i : i + 2] += blob  # the colour word is token i, the shape word token i + 1
    return maps


@dataclass(frozen=True)
class Simulated:
    runs: Path
    cache: Path
    world: World


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """One experiment for the whole session: do not write to it."""
    folder, world = tmp_path_factory.mktemp("simulated"), World()
    return Simulated(write_runs(folder / "runs" / "quick", world), write_cache(folder / "cache", world), world)


@pytest.fixture(scope="session")
def report(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its report, for the whole session too."""
    out = tmp_path_factory.mktemp("reports") / "quick"
    evaluators = ("shapes_reward", "shapes_binding")
    page = build_report(
        runs=simulated.runs, cache=simulated.cache, out=out, title="A <quick> look", evaluators=evaluators
    )
    assert page == out / "index.html"
    return out


STUDIED = ("mse", "listwise", "listwise+infonce", "pairwise")
HOME = World(steps=(5,), taps=(ATTENTION,), losses=STUDIED, baselines=("linear",))
AWAY = World(prompts=45, steps=(5,), taps=("transformer_blocks.3/attention",), losses=STUDIED, baselines=())


def write_two_backbones(folder: Path) -> Simulated:
    """One sweep over two backbones with other prompts each, as experiments/loss_study.yaml; the cache of the first."""
    runs, away = write_runs(folder / "runs" / "study", HOME), write_runs(folder / "away", AWAY)
    for home, backbone, cache in ((runs, "tiny-sd", "cache"), (away, "tiny-sd3", "other")):
        table = pd.read_parquet(home / "results.parquet")
        swept = {"backbone": {"name": backbone, "family": "", "path": ""}, "cache.name": cache, "seed": len(backbone)}
        table["axes"] = [json.dumps(json.loads(axes) | swept) for axes in table["axes"]]
        write_results(home, table)
        text = f"name: study\nbackbone:\n  name: {backbone}\ncache:\n  root: caches\n  name: {cache}\n"
        for path in home.glob("*/config.yaml"):
            path.write_text(text)
    for path in away.glob("*/predictions.parquet"):
        frame = pd.read_parquet(path)
        frame.assign(seed=frame["seed"] + 7000).to_parquet(path, index=False)
        path.parent.rename(runs / path.parent.name)
    tables = [pd.read_parquet(home / "results.parquet") for home in (runs, away)]
    write_results(runs, pd.concat(tables).sort_values("cell", ascending=False))
    return Simulated(runs, write_cache(folder / "cache", HOME), HOME)


@pytest.fixture(scope="session")
def two_backbones(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Do not write to it."""
    return write_two_backbones(tmp_path_factory.mktemp("two"))


LEARNED = World(
    steps=(5,), taps=(ATTENTION,), losses=("listwise",), evaluators=("shapes_reward",),
    baselines=("linear", "prompt_only"), train_prompts=(4, 12),
)  # fmt: skip


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Of several numbers of training captions, without a cache. Do not write to it."""
    folder = tmp_path_factory.mktemp("learned")
    return Simulated(write_runs(folder / "quick", LEARNED), folder / "none", LEARNED)


@pytest.fixture
def runs_copy(simulated: Simulated, tmp_path: Path) -> Path:
    """A copy of the runs that a test may change."""
    return Path(shutil.copytree(simulated.runs, tmp_path / "runs" / "quick"))


@pytest.fixture
def edit_metrics() -> Callable[[Path, str, str, Callable[[dict[str, object]], None]], None]:
    """``edit(runs, cell prefix, split, change)`` applies ``change`` to the rows of one split in
    metrics.json files."""

    def edit(runs: Path, prefix: str, split: str, change: Callable[[dict[str, object]], None]) -> None:
        for path in sorted(runs.glob(f"{prefix}*/metrics.json")):
            content = json.loads(path.read_text())
            for row in content["metrics"]:
                if row["split"] == split:
                    change(row)
            path.write_text(json.dumps(content))

    return edit


@pytest.fixture
def write_scalars() -> Callable[[Path, str, list[str]], None]:
    """``write(runs, cell prefix, scalars)`` has cells say that they read these beside their taps."""

    def write(runs: Path, prefix: str, scalars: list[str]) -> None:
        for path in sorted(runs.glob(f"{prefix}*/config.yaml")):
            lines = "".join(f"  - {scalar}\n" for scalar in scalars)
            path.write_text(path.read_text().replace("probe:\n", f"probe:\n  scalars:\n{lines}"))

    return write
