"""A denoiser that keeps something from step to step is refused before anything runs; all kept is nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import (
    FasterCacheConfig,
    HookRegistry,
    MagCacheConfig,
    ModelHook,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
)
from tiny_pipelines import PIPELINES
from torch import nn

from probe_lab.capture import Capture
from probe_lab.capture.stateful import kept_between_steps
from probe_lab.errors import CaptureError, SelectError
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.selection import ProbeSelect

CALL: dict[str, Any] = {"num_inference_steps": 4, "height": 96, "width": 96, "output_type": "latent"}
PROMPT = "a red circle"
ACTIVATION = "transformer_blocks.1/activation"


class Remembering(ModelHook):
    """A hook of somebody's own that keeps something."""

    _is_stateful = True

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return PIPELINES["flux-dev"](tmp_path_factory.mktemp("flux"))


@pytest.fixture
def pipe(built: Any) -> Iterator[Any]:
    """Without a cache, before and after."""
    yield built
    if built.transformer.is_cache_enabled:
        built.transformer.disable_cache()


def probe(step: int = 2) -> Probe:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Probe(ProbeSpec("linear", {"x0": (4, 12, 12)}, ("score",), step, 4, backbone="flux:tiny")).eval()


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


CACHES: dict[str, Callable[[], object]] = {
    "TaylorSeerCacheConfig": lambda: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, max_order=1),
    "MagCacheConfig": lambda: MagCacheConfig(
        threshold=1.0, max_skip_steps=2, num_inference_steps=4, mag_ratios=[1.0] * 4
    ),
    "FirstBlockCacheConfig": lambda: FirstBlockCacheConfig(threshold=0.3),
    "PyramidAttentionBroadcastConfig": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
    "FasterCacheConfig": lambda: FasterCacheConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500, is_guidance_distilled=True
    ),
}


@pytest.mark.parametrize("name", CACHES)
def test_every_cache_of_diffusers_is_refused_before_anything_runs(pipe: Any, name: str) -> None:
    select = ProbeSelect(pipe, probe(), candidates=3)
    seen: list[int] = []
    handle = pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(1))
    pipe.transformer.enable_cache(CACHES[name]())
    try:
        with pytest.raises(SelectError, match=rf"the denoiser has a cache \({name}\).* switch that off"):
            select(PROMPT, **CALL)
        with pytest.raises(CaptureError, match=rf"'{ACTIVATION}' cannot be captured, the denoiser has a cache"):
            Capture(pipe, [ACTIVATION], [1])
    finally:
        handle.remove()
    assert not seen
    pipe.transformer.disable_cache()
    assert select(PROMPT, **CALL).denoiser_calls == 3 * 2 + 2


def test_a_cache_that_only_its_blocks_show_is_refused(pipe: Any) -> None:
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.3))
    try:
        assert not pipe.transformer.is_cache_enabled
        with pytest.raises(
            SelectError, match=r"has a hook with a state \('fbc_leader_block_hook' on its module 'transf"
        ):
            ProbeSelect(pipe, probe(), candidates=3)(PROMPT, **CALL)
    finally:
        registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer)
        for name in ("fbc_leader_block_hook", "fbc_block_hook"):
            registry.remove_hook(name, recurse=True)
    assert not kept_between_steps(pipe.transformer)


def test_hooks_with_a_state_are_refused_and_those_without_are_not(pipe: Any) -> None:
    block = HookRegistry.check_if_exists_or_initialize(pipe.transformer.transformer_blocks[1])
    block.register_hook(ModelHook(), "plain")
    try:
        assert not kept_between_steps(pipe.transformer)
        block.register_hook(Remembering(), "own")
        expected = "has a hook with a state ('own' on its module 'transformer_blocks.1')"
        assert kept_between_steps(pipe.transformer) == expected
    finally:
        for name in list(block.hooks):
            block.remove_hook(name)


def test_caches_of_other_packages_are_told_by_what_they_put_in(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    assert not kept_between_steps(pipe.transformer)
    block = pipe.transformer.transformer_blocks[0]
    with monkeypatch.context() as patch:
        patch.setattr(block, "forward", forward, raising=False)
        assert not kept_between_steps(pipe.transformer)  # somebody's own: nothing is known of it
        forward.__module__ = "DeepCache.extension.deepcache"
        assert kept_between_steps(pipe.transformer) == "has a cache (of DeepCache on its module 'transformer_blocks.0')"
    with monkeypatch.context() as patch:
        patch.setattr(type(pipe.transformer), "enable_teacache", True, raising=False)
        assert kept_between_steps(pipe.transformer) == "has a cache (enable_teacache)"


def test_a_capture_of_a_cached_denoiser_is_right_or_an_error(pipe: Any) -> None:
    """What the scheduler is given is read; a block that the cache leaves out would hand on what is not its own."""
    with Capture(pipe, ["latent", "x0", ACTIVATION], [3]) as late:
        pipe.transformer.enable_cache(CACHES["TaylorSeerCacheConfig"]())
        with pytest.raises(CaptureError, match=r"has a cache \(TaylorSeerCacheConfig\), so a step need not run all"):
            pipe(PROMPT, generator=generators(1), **CALL)
    assert not late.items()
    with pytest.raises(CaptureError, match=r"'lookahead' cannot be captured, the denoiser has a cache"):
        Capture(pipe, ["lookahead"], [1])
    plain = pipe(PROMPT, generator=generators(1), **CALL).images
    with Capture(pipe, ["latent", "x0"], [4]) as capture:
        seen = pipe(PROMPT, generator=generators(1), **CALL).images
    assert torch.equal(seen, plain)
    assert len(capture.items()) == 2


def test_all_kept_is_the_plain_call(pipe: Any) -> None:
    """Rows stay in the order of the candidates, to the bit, and are reported best first."""
    batches: list[torch.Tensor] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        whole = pipe(PROMPT, num_images_per_prompt=3, generator=generators(3), **CALL).images
        found = ProbeSelect(pipe, probe(), candidates=3, keep=3)(PROMPT, generator=generators(3), **CALL)
    finally:
        handle.remove()
    assert all(torch.equal(plain, selected) for plain, selected in zip(batches[:4], batches[4:], strict=True))
    assert torch.equal(found.images, whole[list(found.kept[0])])
    assert list(found.kept[0]) == found.scores[0, :, 0].argsort(descending=True).tolist() != [0, 1, 2]


def test_kept_rows_stay_in_the_order_of_the_candidates(pipe: Any) -> None:
    select = ProbeSelect(pipe, probe(), candidates=4, keep=2)
    with Capture(pipe, ["latent"], [4]) as seen:
        found = select(PROMPT, generator=generators(4), **CALL)
    left = ~seen[4, "", "latent"].flatten(1).isnan().any(1)
    assert left.nonzero().flatten().tolist() == sorted(found.kept[0])


def test_a_call_that_ends_before_the_cut_says_so(pipe: Any) -> None:
    def interrupt(pipe: Any, index: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return kwargs

    with pytest.raises(SelectError, match="the call ended after step 1 of 4, before the cut at step 2"):
        ProbeSelect(pipe, probe(), candidates=3)(PROMPT, callback_on_step_end=interrupt, **CALL)
