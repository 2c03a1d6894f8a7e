"""What the papers' runs take: ``python -m tools.paper_runs > docs/paper_runs.md``."""

from __future__ import annotations

import math

from probe_lab.backbones.architectures import architectures
from probe_lab.config import SHIPPED, load_experiment
from probe_lab.config.schema import EXHIBITS
from probe_lab.generation.dry_plan import TFLOPS, dry_plan

EXPERIMENTS = sorted(path for path in (SHIPPED / "paper").glob("*.yaml") if path.stem not in EXHIBITS)
"""Those on the papers' own models; the others, named after a table or figure, run on the shapes world."""

HEAD = """# The papers' runs

What `generate` takes for each experiment of `experiments/paper`: *Diffusion Probe*, Table 1 (15 000 + 5 000 captions,
one image each, attention of ten blocks at steps 1, 5, 10 and 15) and *Probe-Select*, Table 1 (5 000 captions with five
seeds each, the activation of one block at 20 % of the steps). `preregistered_*` are our own, whose headers are their
analysis plans. One of them, tap by tap:

```
probe-lab plan paper/diffusion_probe_sdxl
```

| Experiment | Model | Images | Tensors per image | Disk | TFLOP per image | GPU-hours |
|---|---|---|---|---|---|---|
"""
FOOT = f"""
These figures are computed, not measured. `plan` builds a model that is not on the machine from its published
architecture, without weights, and runs one step of the stock pipeline: the shapes are exact. GPU-hours are the counted
operations of the denoiser at {TFLOPS:g} TFLOP/s, an H100 at 40 % of its dense bfloat16 peak; `--tflops` sets another
rate. UNets reach a smaller share of the peak than transformers do. Text encoders and autoencoder come on top. Disk is
tensors, text embeddings and images (PNG, taken to need 1.5 bytes per pixel).

With the weights in a local folder (`backbone.path=...`) or in the hub's cache, `plan` loads them and measures instead.

This page is written by `python -m tools.paper_runs > docs/paper_runs.md`.
"""


def row(name: str) -> list[str]:
    """The cells of an experiment: its name, its model, and five figures."""
    experiment = load_experiment(f"paper/{name}")
    path = experiment.backbone.path
    plan = dry_plan(experiment, architectures()[path])
    values = sum(map(math.prod, plan.shapes.values())) * len(plan.steps)
    tflop = plan.hours * 3600 * TFLOPS / plan.images
    return [
        f"`{name}`",
        path,
        f"{plan.images:,}",
        f"{values * plan.element_bytes / 1e6:.2f} MB",
        f"{plan.total_bytes / 1e9:.0f} GB",
        f"{tflop:,.0f}",
        f"{plan.hours:.1f}",
    ]


def page() -> str:
    """The whole page."""
    lines = ["| " + " | ".join(row(path.stem)) + " |\n" for path in EXPERIMENTS]
    return HEAD + "".join(lines) + FOOT


if __name__ == "__main__":
    print(page(), end="")
