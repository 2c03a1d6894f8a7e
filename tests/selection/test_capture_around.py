"""A capture of the user's own around a selection: a row for every candidate in its place, NaN once it is pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import CALL

from probe_lab.backbones.families import family_of
from probe_lab.capture import Capture
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.selection import ProbeSelect

STEPS = 5
PROMPTS = ["a red circle", "a blue square left of a green cross"]
Tiny = Callable[[str], DiffusionPipeline]


def options_of(name: str, *, guided: bool = True) -> dict[str, Any]:
    options = {"num_inference_steps": STEPS, "height": 96, "width": 96, "output_type": "latent"}
    return options | CALL[name].options | (CALL[name].guided if guided else CALL[name].plain)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def probe_of(pipe: DiffusionPipeline, step: int = 2) -> Probe:
    with torch.random.fork_rng():
        torch.manual_seed(step)
        spec = ProbeSpec(
            "linear", {"x0": (4, 12, 12)}, ("score",), step, STEPS, backbone=f"{family_of(pipe).name}:tiny"
        )  # type: ignore[arg-type]
        return Probe(spec).eval()


def compare(seen: Capture, whole: Capture, left: dict[int, set[int]]) -> None:
    """``left``: the rows that are denoised in each captured step."""
    assert [key for key, _ in seen.items()] == [key for key, _ in whole.items()]
    for (step, tap), expected in whole.items():
        tensor = seen[step, tap]
        assert tensor.shape == expected.shape
        assert tensor.dtype == expected.dtype
        for row in range(len(expected)):
            if row in left[step]:
                torch.testing.assert_close(tensor[row], expected[row], atol=1e-4, rtol=1e-4)
            else:
                assert tensor[row].isnan().all(), (step, tap, row)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("name", ["sd", "sd3", "flux-schnell", "qwen-image"])
@pytest.mark.parametrize(("count", "keep"), [(2, 1), (4, 2)])
def test_every_tap_has_the_row_of_its_candidate(tiny: Tiny, name: str, guided: bool, count: int, keep: int) -> None:
    """With twice as many candidates as are kept, a batch of both halves has as many rows as there are candidates."""
    pipe, options = tiny(name), options_of(name, guided=guided)
    call = CALL[name]
    taps = [f"{call.attention[0]}/attention", f"{call.activation[0]}/activation", "x0", "latent", "lookahead"]
    prompts, each = PROMPTS[:1] * (count if call.repeat_prompts else 1), 1 if call.repeat_prompts else count
    plain = dict(options)
    if "negative_prompt" in plain:
        plain["negative_prompt"] = [plain["negative_prompt"]] * len(prompts)
    with Capture(pipe, taps, [2, 4]) as whole:
        pipe(prompts, num_images_per_prompt=each, generator=generators(count), **plain)
    with Capture(pipe, taps, [2, 4]) as seen:
        found = ProbeSelect(pipe, probe_of(pipe), candidates=count, keep=keep)(
            PROMPTS[0], generator=generators(count), **options
        )
    compare(seen, whole, {2: set(range(count)), 4: set(found.kept[0])})
    assert whole.token_mask is not None
    assert seen.token_mask is not None
    assert torch.equal(seen.token_mask, whole.token_mask)


def test_several_prompts_cuts_and_captures(tiny: Tiny) -> None:
    pipe, options = tiny("sd"), options_of("sd")
    taps = ["up_blocks.1.attentions.0/attention", "x0"]
    schedule = [{"step": 1, "keep": 3}, {"step": 3, "keep": 1}]
    cuts: dict[int, set[int]] = {}

    def note(step: int, kept: list[torch.Tensor]) -> None:
        cuts[step] = {prompt * 4 + one for prompt, rows in enumerate(kept) for one in rows.tolist()}

    select = ProbeSelect(
        pipe, [probe_of(pipe, step) for step in (1, 3)], candidates=4, keep=1, schedule=schedule, on_cut=note
    )
    with Capture(pipe, taps, [1, 2, 3, 4]) as whole:
        pipe(PROMPTS, num_images_per_prompt=4, generator=generators(8), **options)
    with Capture(pipe, taps, [1, 2, 3, 4]) as seen, Capture(pipe, ["latent"], [5]) as last:
        select(PROMPTS, generator=generators(8), **options)
    compare(seen, whole, {1: set(range(8)), 2: cuts[1], 3: cuts[1], 4: cuts[3]})
    assert {row for row in range(8) if not last[5, "", "latent"][row].isnan().any()} == cuts[3]


def test_a_plain_call_after_a_selection_has_all_its_rows(tiny: Tiny) -> None:
    pipe, options = tiny("sd"), options_of("sd")
    with Capture(pipe, ["x0"], [4]) as capture:
        ProbeSelect(pipe, probe_of(pipe), candidates=3)(PROMPTS[0], generator=generators(3), **options)
        assert capture[4, "", "x0"].isnan().any()
        pipe(PROMPTS[0], num_images_per_prompt=3, generator=generators(3), **options)
    assert not capture[4, "", "x0"].isnan().any()


def test_a_selection_that_fails_leaves_the_capture_as_it_was(tiny: Tiny) -> None:
    pipe, options = tiny("sd"), options_of("sd")

    def fail(pipe: Any, index: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    with Capture(pipe, ["x0"], [1, 4]) as capture:
        with pytest.raises(KeyboardInterrupt):
            ProbeSelect(pipe, probe_of(pipe), candidates=3)(PROMPTS[0], callback_on_step_end=fail, **options)
        assert [step for (step, _), _ in capture.items()] == [1]
        pipe(PROMPTS[0], generator=generators(1), **options)
        assert [step for (step, _), _ in capture.items()] == [1, 4]
    assert type(pipe).__call__ is type(pipe).__mro__[0].__call__
    assert "decode" not in vars(pipe.vae)
