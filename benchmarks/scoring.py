"""Four CLIP-family evaluators in one pass over a cache, against a pass for each; and what they hold in memory.

`python -m benchmarks.scoring [--images N] [--repeats N] [--json FILE]` scores PNGs of 512×512 (smooth colours, noise)
with `clip_score` and `aesthetic` on one CLIP, `pick_score` and `hps_v2`: each a ViT-B/32 of full size with random
weights, as a CPU can run it. Models are loaded anew in every pass, on both sides. Where towers are so large that
nothing beside them counts, the ratio is that of distinct towers, three of four.

Peak is the largest resident set of a process that scores 64 of these images, over that of one that only imports and
decodes.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from scipy.ndimage import zoom

from benchmarks.caches import write_made_up
from benchmarks.capture import paired, ratios
from benchmarks.output import show
from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.evaluators import create
from probe_lab.evaluators.aesthetic import AestheticHead
from probe_lab.evaluators.scoring_run import score_cache

ARCHITECTURE, WIDTH = "ViT-B-32", 512
NAMES = ("clip_score", "aesthetic", "pick_score", "hps_v2")
AT_MOST = 0.75
"""Time of one pass with all four over four passes."""
SIDE, SEEDS, SHARD = 512, 8, 64


def photograph(seed: int) -> bytes:
    """A PNG that weighs and decodes about as a photograph does."""
    rng = np.random.default_rng(seed)
    smooth = zoom(rng.uniform(0, 255, (8, 8, 3)), (SIDE / 8, SIDE / 8, 1), order=1)
    pixels = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_cache(folder: Path, images: int) -> None:
    """A cache whose tensors nothing reads."""
    write_made_up(
        folder,
        taps={"x0": (1, 1, 1)},
        steps=(1,),
        count=images,
        seeds=SEEDS,
        shard_size=SHARD,
        arrays=lambda ids: {"1/x0": torch.zeros(len(ids), 1, 1, 1)},
        images=lambda ids: [photograph(each) for each in ids],
    )


def write_weights(folder: Path) -> None:
    """Random checkpoints of three towers and of the aesthetic head, in released formats."""
    for seed, name in enumerate(("clip", "pick", "hps")):
        torch.manual_seed(seed)
        model = open_clip.create_model(ARCHITECTURE)
        torch.save({"state_dict": model.state_dict()}, folder / f"{name}.pt")
    torch.save(AestheticHead(WIDTH).state_dict(), folder / "head.pth")


def scoring_of(folder: Path, *, resident: bool = False) -> Scoring:
    """Where the four find their weights."""
    models = {
        "clip_score": EvaluatorModel(checkpoint=str(folder / "clip.pt"), architecture=ARCHITECTURE),
        "aesthetic": EvaluatorModel(
            checkpoint=str(folder / "head.pth"), base=str(folder / "clip.pt"), architecture=ARCHITECTURE
        ),
        "pick_score": EvaluatorModel(checkpoint=str(folder / "pick.pt"), architecture=ARCHITECTURE),
        "hps_v2": EvaluatorModel(checkpoint=str(folder / "hps.pt"), architecture=ARCHITECTURE),
    }
    return Scoring(models=models, resident=resident)


def child(folder: Path, names: tuple[str, ...], *, resident: bool = False) -> int:
    """Peak bytes of a new process that scores with ``names``."""
    command = [sys.executable, "-m", "benchmarks.scoring", "--peak", str(folder), ",".join(names)]
    output = subprocess.run(command + ["--resident"] * resident, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(json.loads(output.splitlines()[-1]))


def score_and_peak(folder: Path, names: list[str], *, resident: bool) -> int:
    """Score the small cache; this process's peak. Without names, only what every side imports and decodes."""
    scoring = scoring_of(folder, resident=resident)
    if names:
        score_cache(folder / "small", names, scoring=scoring, overwrite=True)
    else:
        sample = create("clip_score", scoring)
        for seed in range(SHARD):
            sample.prepare(Image.open(io.BytesIO(photograph(seed))))
    return own_peak()


def own_peak() -> int:
    """Largest resident set of this program, in bytes; `ru_maxrss` would include what its parent held when it forked."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def measure_memory(folder: Path) -> dict[str, object]:
    """Extra bytes of each alone, of all four, and of all four resident."""
    write_cache(folder / "small", SHARD)
    plain = child(folder, ())
    alone = {name: child(folder, (name,)) - plain for name in NAMES}
    together, resident = child(folder, NAMES) - plain, child(folder, NAMES, resident=True) - plain
    largest = max(alone.values())
    return {
        "extra_alone": alone,
        "extra_together": together,
        "extra_resident": resident,
        "together_over_largest": together / largest,
        "resident_over_largest": resident / largest,
    }


def measure_time(folder: Path, images: int, repeats: int) -> dict[str, object]:
    """Seconds of both sides and their ratio."""
    write_cache(folder / "cache", images)
    scoring = scoring_of(folder)

    def timed(passes: list[list[str]]) -> float:
        began = time.perf_counter()
        for names in passes:
            score_cache(folder / "cache", names, scoring=scoring, overwrite=True)
        return time.perf_counter() - began

    timed([["clip_score"]])  # warm-up
    one, four = paired(lambda: timed([list(NAMES)]), lambda: timed([[name] for name in NAMES]), repeats)
    return {"images": images, "seconds_one_pass": one, "seconds_four_passes": four, "ratio": ratios(one, four)}


def measure(images: int, repeats: int) -> dict[str, object]:
    """Figures as `--json` writes them."""
    with tempfile.TemporaryDirectory(prefix="probe_lab_scoring_") as name:
        folder = Path(name)
        write_weights(folder)
        return {
            "benchmark": "scoring",
            "architecture": ARCHITECTURE,
            "evaluators": list(NAMES),
            "target": AT_MOST,
            "memory": measure_memory(folder),
            "time": measure_time(folder, images, repeats),
        }


def table(result: dict[str, object]) -> str:
    times, memory = result["time"], result["memory"]
    assert isinstance(times, dict)
    assert isinstance(memory, dict)
    ratio = times["ratio"]
    lines = [
        f"{times['images']} images of {SIDE}×{SIDE}, {', '.join(NAMES)} on {ARCHITECTURE}",
        f"one pass {statistics.median(times['seconds_one_pass']):.1f} s, four passes "
        f"{statistics.median(times['seconds_four_passes']):.1f} s: "
        f"{ratio['min']:.3f} / {ratio['median']:.3f} / {ratio['max']:.3f} (min / median / max), at most {AT_MOST}",
        "extra peak memory, MB: "
        + ", ".join(f"{name} {extra / 1e6:,.0f}" for name, extra in memory["extra_alone"].items()),
        f"all four {memory['extra_together'] / 1e6:,.0f} ({memory['together_over_largest']:.2f} of the largest), "
        f"resident {memory['extra_resident'] / 1e6:,.0f} ({memory['resident_over_largest']:.2f})",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help=f"a multiple of {SEEDS}")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--resident", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        folder, names = Path(arguments.peak[0]), [name for name in arguments.peak[1].split(",") if name]
        print(json.dumps(score_and_peak(folder, names, resident=arguments.resident)))
    else:
        show(measure(arguments.images, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()
