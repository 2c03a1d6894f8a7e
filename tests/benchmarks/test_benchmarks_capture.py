from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from benchmarks.backbones import WORKLOADS
from benchmarks.capture import paired, ratios
from benchmarks.eager import Layers, eager_attention
from benchmarks.workers import differences


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
