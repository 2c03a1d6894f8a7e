"""A candidate whose numbers overflowed is never chosen, and is named."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import build
from torch import Tensor

from probe_lab.errors import SelectError
from probe_lab.previews.decoding import previewer
from probe_lab.probes import Probe, ProbeSpec, preview_probe, save_probe
from probe_lab.runs.files import PREDICTIONS
from probe_lab.selection import ProbeSelect, Selection
from probe_lab.selection.budget_schedule import plan_for
from probe_lab.selection.ranking import By, order, ranked

PROMPT = "a red circle"
CALL: dict[str, Any] = {"num_inference_steps": 5, "height": 96, "width": 96, "guidance_scale": 3.0}
COUNT = 4


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> DiffusionPipeline:
    return build("sd", tmp_path_factory.mktemp("tiny"))


def probe_at(step: int) -> Probe:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Probe(ProbeSpec("linear", {"x0": (4, 12, 12)}, ("one", "two"), step, 5, backbone="sd:tiny")).eval()


@contextmanager
def overflowing(pipe: DiffusionPipeline, candidates: Sequence[int], value: float = torch.nan) -> Iterator[None]:
    """What a float16 overflow in some candidates' rows does, while all rows are there."""

    def spoil(module: torch.nn.Module, args: Any, output: Any) -> Any:
        rows = len(output[0]) // 2
        if rows == COUNT:
            for candidate in candidates:
                output[0][[candidate, candidate + rows], :, 0, 0] = value
        return output

    handle = pipe.unet.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


def select(pipe: DiffusionPipeline, probe: Any, prompt: Any = PROMPT, **options: Any) -> Selection:
    count = COUNT * (1 if isinstance(prompt, str) else len(prompt))
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    made = ProbeSelect(pipe, probe, candidates=COUNT, **options)
    return made(prompt, generator=generators, output_type="latent", **CALL)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("by", ["one", "two", "pareto", {"one": 0.5, "two": -0.5}])
def test_what_overflowed_comes_last_in_every_order(
    pipe: DiffusionPipeline, by: By, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    with overflowing(pipe, [2], value), caplog.at_level(logging.WARNING):
        found = select(pipe, probe_at(2), by=by)
        whole = select(pipe, probe_at(2), by=by, keep=4)
    assert 2 not in found.kept[0]
    assert found.scores[0].isfinite().all(1).tolist() == [True, True, False, True]
    assert found.faults == ({2: "not_finite"},)
    assert "candidate 2" in caplog.text
    assert PROMPT in caplog.text
    # Asked to keep all, it is the last choice, and the others are in the order that they have without it.
    assert whole.kept[0][-1] == 2
    others = [0, 1, 3]
    best = order(whole.scores[0][others], by, probe_at(2))
    assert whole.kept[0][:3] == tuple(others[place] for place in best)


def test_schedules_and_previews_too(pipe: DiffusionPipeline) -> None:
    with overflowing(pipe, [1, 3]):
        found = select(pipe, [probe_at(1), probe_at(3)], schedule=[{"step": 1, "keep": 3}, {"step": 3, "keep": 1}])
        preview = select(pipe, preview_probe("preview:shapes_reward", step=2, total_steps=5))
        lookahead = select(pipe, preview_probe("lookahead:shapes_reward", step=2, total_steps=5))
    assert preview.kept[0][0] in (0, 2)
    assert lookahead.kept[0][0] in (0, 2)
    assert found.kept[0][0] in (0, 2)
    assert found.faults == ({1: "not_finite", 3: "not_finite"},)


def test_one_prompt_does_not_decide_for_another(pipe: DiffusionPipeline) -> None:
    clean = select(pipe, probe_at(2), ["a blue square"])
    assert clean.faults == ({},)


def test_all_broken_is_one_sentence(pipe: DiffusionPipeline) -> None:
    with (
        overflowing(pipe, range(COUNT)),
        pytest.raises(SelectError, match="none of the 4 candidates of 'a red circle'"),
    ):
        select(pipe, probe_at(2))
    blind = probe_at(2)
    torch.nn.init.constant_(blind.head.weight, torch.nan)  # type: ignore[arg-type]
    with pytest.raises(SelectError, match="step 2 has a finite score"):
        select(pipe, blind)
    assert not pipe.unet._forward_hooks
    assert "decode" not in vars(pipe.vae)


def test_what_overflows_after_the_choice_is_named(pipe: DiffusionPipeline) -> None:
    def spoil(module: torch.nn.Module, args: Any, output: Any) -> Any:
        if len(output[0]) == 2:  # the kept one alone
            output[0][:] = torch.nan
        return output

    handle = pipe.unet.register_forward_hook(spoil)
    try:
        found = select(pipe, probe_at(2))
    finally:
        handle.remove()
    assert found.faults == ({found.kept[0][0]: "not_finite"},)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_order_of_broken_scores(dtype: torch.dtype) -> None:
    probe = probe_at(2)
    scores = torch.tensor([[torch.nan, 1.0], [0.5, torch.inf], [0.1, 0.2], [-torch.inf, 3.0], [0.3, 0.1]], dtype=dtype)
    assert order(scores, "one", probe).tolist() == [1, 4, 2, 0, 3]
    assert order(scores, "two", probe).tolist() == [3, 0, 2, 4, 1]
    for by in ("pareto", {"one": 1.0, "two": 1.0}):
        assert order(scores, by, probe).tolist() == [4, 2, 0, 1, 3]  # type: ignore[arg-type]
        assert ranked(scores, by, probe).tolist() == [False, False, True, False, True]  # type: ignore[arg-type]


@pytest.mark.parametrize("column", ["prediction", "target"])
def test_a_budget_is_not_planned_from_what_is_no_number(tmp_path: Path, column: str) -> None:
    save_probe(tmp_path, probe_at(2))
    rows = pd.DataFrame({"sample_id": np.arange(8), "prompt_id": np.arange(8) // 2, "split": "val", "evaluator": "one"})
    rows = rows.assign(prediction=np.arange(8) / 8, target=np.arange(8) / 4)
    plan = {"candidates": 2, "keep": 1, "steps": 5, "budget": 8}
    rows.to_parquet(tmp_path / PREDICTIONS)
    assert plan_for({2: tmp_path}, "one", **plan).plan == ((2, 1),)
    rows.loc[5, column] = np.nan
    rows.to_parquet(tmp_path / PREDICTIONS)
    with pytest.raises(SelectError, match="sample 5 that is not finite"):
        plan_for({2: tmp_path}, "one", **plan)


def test_a_preview_that_is_no_picture_has_no_score(pipe: DiffusionPipeline) -> None:
    latents = torch.zeros(3, 4, 8, 8)
    latents[1, 0, 0, 0] = torch.nan
    scores: Tensor = previewer(pipe)(latents, [PROMPT] * 3, ["shapes_reward", "shapes_fidelity"])
    assert scores.isfinite().all(1).tolist() == [True, False, True]
