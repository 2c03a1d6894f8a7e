from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from torch import Tensor

from benchmarks.backbones import WORKLOADS, Workload
from benchmarks.capture import paired, ratios
from benchmarks.capture_memory import tensor_peak
from benchmarks.eager import Layers, eager_attention
from benchmarks.peers import PEERS, Peer, peers_of
from benchmarks.tools import daam, maps_0_1_5, prompt_to_prompt
from benchmarks.workers import differences
from probe_lab.backbones.families import family_of
from probe_lab.capture import Capture


def test_sides_of_a_turn_swap_and_stay_paired() -> None:
    order: list[str] = []

    def side(name: str, values: list[float]) -> float:
        order.append(name)
        return values.pop(0)

    slow, fast = [2.0, 4.0, 9.0], [1.0, 2.0, 3.0]
    above, below = paired(lambda: side("a", slow), lambda: side("b", fast), turns=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert ratios(above, below) == {"min": 2.0, "median": 2.0, "max": 3.0}


def test_differences_names_changed_and_missing_files(tmp_path: Path) -> None:
    for name, content in {
        "one/same": "x",
        "two/same": "x",
        "one/s/other": "x",
        "two/s/other": "y",
        "two/more": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert differences(tmp_path / "one", tmp_path / "two") == ["more", "s/other"]
    assert differences(tmp_path / "one", tmp_path / "one") == []


@pytest.mark.parametrize(("layers", "count"), [("text", 7), ("all", 14)])
def test_a_peer_draws_the_same_images_from_explicit_attention(layers: Layers, count: int) -> None:
    workload = WORKLOADS["tiny-sd"]
    pipe = workload.open()
    before = dict(pipe.unet.attn_processors)
    expected = workload.run(pipe, images=2, steps=2)
    with eager_attention(pipe.unet, layers) as store:
        found = workload.run(pipe, images=2, steps=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert pipe.unet.attn_processors == before
    assert len(store.maps) == count
    for maps in store.maps.values():  # two images' conditional rows, each row's probabilities summed over two steps
        assert maps.shape[0] == 2
        torch.testing.assert_close(maps.sum(-1), torch.full(maps.shape[:-1], 2.0))


@pytest.mark.parametrize(("layers", "size"), [("text", (4, 5)), ("all", (9, 9))])
def test_a_peer_of_joint_attention_equals_the_stock_layers(layers: Layers, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    ).eval()
    inputs = {
        "hidden_states": torch.randn(2, 4, 4, 4),
        "encoder_hidden_states": torch.randn(2, 5, 8),
        "pooled_projections": torch.randn(2, 8),
        "timestep": torch.tensor([7.0, 7.0]),
    }
    with torch.no_grad():
        expected = model(**inputs).sample
        with eager_attention(model, layers) as store:
            found = model(**inputs).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert {tuple(maps.shape) for maps in store.maps.values()} == {(1, 2, *size)}
    assert len(store.maps) == 2


STEPS = 2


def captured(workload: Workload, pipe: DiffusionPipeline, images: int) -> tuple[list[list[Tensor]], Tensor, Tensor]:
    """Each step's maps of all text layers, averaged over heads; which tokens are the prompt's; the latents."""
    taps = [tap for tap in family_of(pipe).taps(pipe) if tap.kind == "attention"]
    # Of the taps that hold one layer each, those with the longest path: a block holds the same layers once more.
    single = [tap for tap in taps if not any(other.module.startswith(f"{tap.module}.") for other in taps)]
    with Capture(pipe, single, range(1, STEPS + 1)) as capture:
        latents = workload.run(pipe, images=images, steps=STEPS)
    assert capture.token_mask is not None
    steps = [[capture[step, tap] for tap in single] for step in range(1, STEPS + 1)]
    return steps, capture.token_mask, latents


def resized(maps: Tensor, side: int, mode: str) -> Tensor:
    return F.interpolate(maps, size=(side, side), mode=mode)


@pytest.mark.parametrize(("name", "images"), [("tiny-sd", 2), ("tiny-sd3", 1)])
def test_maps_of_every_step_are_those_of_a_capture(name: str, images: int) -> None:
    workload = WORKLOADS[name]
    pipe = workload.open()
    steps, mask, latents = captured(workload, pipe, images)
    with maps_0_1_5(pipe) as found:
        same = workload.run(pipe, images=images, steps=STEPS)
    torch.testing.assert_close(same, latents, rtol=0, atol=1e-4)
    layers = [resized(maps * 4, 8, "bilinear") for step in steps for maps in step]  # both have four heads
    expected = torch.stack(layers).mean(0)
    torch.testing.assert_close(found[0] * mask[:, :, None, None], expected, rtol=0, atol=1e-4)


def test_the_heat_map_is_that_of_a_capture() -> None:
    workload = WORKLOADS["tiny-sd"]
    pipe = workload.open()
    before = dict(pipe.unet.attn_processors)
    steps, mask, latents = captured(workload, pipe, 1)
    with daam(pipe) as found:
        same = workload.run(pipe, images=1, steps=STEPS)
    torch.testing.assert_close(same, latents, rtol=0, atol=1e-4)
    assert pipe.unet.attn_processors == before
    # Taps stand in the order of the modules, where the middle block comes last: the tool leaves it out.
    outer = [sum(step[layer] for step in steps) for layer in range(len(steps[0]) - 1)]
    expected = torch.stack([resized(maps, 16, "bicubic") for maps in outer]).mean(0)[0]
    # The tool resizes every head by itself and cuts what falls below zero: small differences.
    torch.testing.assert_close(found[0] * mask[0, :, None, None], expected, rtol=0, atol=0.03)


def test_stored_attention_is_that_of_a_capture() -> None:
    workload = WORKLOADS["tiny-sd"]
    pipe = workload.open()
    steps, mask, latents = captured(workload, pipe, 2)
    with prompt_to_prompt(pipe) as found:
        same = workload.run(pipe, images=2, steps=STEPS)
    torch.testing.assert_close(same, latents, rtol=0, atol=1e-4)
    large = [maps[0] for step in steps for maps in step if maps.shape[-1] == 8]
    expected = torch.stack(large).mean(0).permute(1, 2, 0)
    torch.testing.assert_close(found[0] * mask[0], expected, rtol=0, atol=1e-5)


def test_tensors_count_while_they_are_alive() -> None:
    def together() -> None:
        kept = [torch.ones(1000) for _ in range(3)]
        assert len(kept) == 3

    def in_turn() -> None:
        for _ in range(3):
            torch.ones(1000)

    assert tensor_peak(together) == 12_000
    assert tensor_peak(in_turn) == 4_000


def test_a_tool_for_single_prompts_runs_alone() -> None:
    names = [peer.name for peer in peers_of(WORKLOADS["tiny-sd3"])]
    assert "maps 0.1.5" in names
    assert "daam" not in names
    tool = next(peer for peer in PEERS if peer.name == "daam")
    assert tool.images(WORKLOADS["tiny-sd"]) == 1
    absent = Peer("absent", daam, package="no_such_package")
    assert absent.missing
    assert not tool.missing
