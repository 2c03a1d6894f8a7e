"""The section ``judge`` of an experiment: the picture judges that `probe-lab judge` trains on the labels of a cache."""

from __future__ import annotations

from dataclasses import dataclass

from probe_lab.config.declare import key, positive, up_to
from probe_lab.config.world_sections import STEPS


@dataclass(frozen=True)
class JudgeConfig:
    """How picture judges are trained on `labels`: `probe-lab judge` does it, for `probe.judge`."""

    seeds: int = key(
        1,
        "Judges, each from a seed of its own. A cell reads number `trainer.seed` modulo `judge.seeds`, so that "
        "intervals over training seeds are also over judges.",
        positive(100),
    )
    steps: list[int] = key(
        [],
        "Captured steps at which it learns to read x₀, beside those of `labels.steps`. The scores of finished pictures "
        "teach at all of them, and cost nothing more.",
        allowed=STEPS,
        in_result=False,
    )
    batches: int = key(3000, "Steps of the optimizer.", positive(10**7), in_result=False)
    pictures: int = key(
        2000,
        "Predicted x₀ of training samples that are decoded, so that a judge first learns to paint them. 0: none.",
        up_to(10**7),
        in_result=False,
    )
    prompts: int = key(
        6, "Training prompts of a batch, each at one step, with all of their seeds.", positive(10**4), in_result=False
    )
    captions: int = key(
        8, "Captions under which a picture of a batch is judged, its own among them.", positive(65), in_result=False
    )
    renoised: float = key(
        0.5,
        "Share of the prompts of a batch that are seen by finished pictures that `labels.renoised` noised again, where "
        "there are any. Those have the labels of finished pictures only.",
        up_to(1),
        in_result=False,
    )
    learning_rate: float = key(
        2e-3, "Highest learning rate. It rises to it, and then falls by a cosine.", positive(10**9), in_result=False
    )
    weight_decay: float = key(0.05, "Weight decay.", positive(10**9), in_result=False)
