"""What is captured of each family of models, against independent computations in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from diffusers import DiffusionPipeline
from eager import clean_latent, denoiser_of, eager_attention, recorded, text_layers, unpacked
from family_world import EACH, GRIDS, PROMPTS, ROWS, STEP, Seen, real_tokens, see
from tiny_models import LATENT
from tiny_pipelines import CALL, PIPELINES, run
from torch import Tensor

from probe_lab.capture import Capture, Tap

GetPipe = Callable[[str], DiffusionPipeline]
See = Callable[[str, bool], Seen]
every_family = pytest.mark.parametrize("name", PIPELINES)
with_and_without_guidance = pytest.mark.parametrize("guided", [True, False], ids=["guided", "plain"])


@pytest.fixture(scope="module")
def seen(tiny_pipe: GetPipe) -> See:
    return functools.cache(lambda name, guided: see(tiny_pipe(name), name, guided=guided))


def mask_of(world: Seen) -> Tensor:
    return real_tokens(world.name, world.pipe, PROMPTS).repeat_interleave(EACH, 0)


@with_and_without_guidance
@every_family
def test_attention_equals_an_independent_computation(seen: See, name: str, guided: bool) -> None:
    world = seen(name, guided)
    for path in CALL[name].attention:
        expected = world.eager_map(path)
        maps = world.capture[STEP, path, "attention"]
        assert maps.dtype == torch.float32
        assert maps.shape == (ROWS, world.text_tokens, *GRIDS[expected.shape[2]])
        torch.testing.assert_close(
            maps.flatten(2).double(),
            expected * mask_of(world)[:, :, None],
            atol=1e-5,
            rtol=0,
        )
        # A nearly uniform map would prove little.
        assert (expected.amax(1) / expected.mean(1)).median() > 1.5


@with_and_without_guidance
@every_family
def test_the_token_mask_is_that_of_the_text(seen: See, name: str, guided: bool) -> None:
    world = seen(name, guided)
    mask = world.capture.token_mask
    assert mask is not None
    assert mask.dtype == torch.bool
    assert mask.tolist() == mask_of(world).tolist()
    for path in CALL[name].attention:
        assert (world.capture[STEP, path, "attention"][~mask] == 0).all()


@with_and_without_guidance
@every_family
def test_rows_sum_to_the_share_of_the_real_text(seen: See, name: str, guided: bool) -> None:
    world = seen(name, guided)
    mask = mask_of(world)
    for path in CALL[name].attention:
        share = world.capture[STEP, path, "attention"].sum(1)
        whole = world.eager_map(path)
        torch.testing.assert_close(share.flatten(1).double(), (whole * mask[:, :, None]).sum(1), atol=1e-5, rtol=0)
        if name in ("pixart", "sana"):  # cross-attention, and the model leaves padding out itself
            torch.testing.assert_close(share, torch.ones_like(share), atol=1e-5, rtol=0)
        elif name in ("sd", "sd-v", "sdxl"):  # cross-attention that reads padding too
            torch.testing.assert_close(whole.sum(1), torch.ones_like(whole[:, 0]), atol=1e-9, rtol=0)
            assert ((share > 0.01) & (share < 1)).all()
        else:  # the image attends to itself as well
            assert ((share > 0) & (share < 0.999)).all()
            assert (whole.sum(1) < 0.999).all()


@with_and_without_guidance
@every_family
def test_normalised_over_text_rows_sum_to_one(seen: See, name: str, guided: bool) -> None:
    world = seen(name, guided)
    for path in CALL[name].attention:
        maps = world.over_text[STEP, path, "attention"]
        torch.testing.assert_close(maps.sum(1), torch.ones_like(maps[:, 0]), atol=1e-5, rtol=0)
        real = world.eager_map(path) * mask_of(world)[:, :, None]
        # The shares of the mean over heads; a share of nearly nothing is known less exactly.
        torch.testing.assert_close(maps.flatten(2).double(), real / real.sum(1, keepdim=True), atol=2e-4, rtol=0)


@with_and_without_guidance
@every_family
def test_activation_is_the_image_part_of_the_output(seen: See, name: str, guided: bool) -> None:
    world = seen(name, guided)
    for path in CALL[name].activation:
        output = world.record.outputs[path][world.call]
        captured = world.capture[STEP, path, "activation"]
        image = output[-1] if isinstance(output, tuple) else output  # (text, image), or a tuple of one
        image = world.conditional(image)
        if image.dim() == 3:
            image = image[:, -captured.shape[2] * captured.shape[3] :]  # FLUX.2: one sequence, the text first
            assert captured.shape[2:] == GRIDS[image.shape[1]]
            captured = captured.flatten(2).transpose(1, 2)
        assert captured.shape == image.shape
        assert torch.equal(captured, image)


@with_and_without_guidance
@every_family
def test_latent_and_x0_are_those_of_the_scheduler(seen: See, name: str, guided: bool) -> None:
    world = seen(name, guided)
    output, sample = world.record.scheduler[STEP - 1]
    clean = clean_latent(world.pipe.scheduler, STEP, output, sample)
    if CALL[name].packed:
        sample, clean = unpacked(sample, 12, 20), unpacked(clean, 12, 20)
    assert world.capture[STEP, "", "latent"].shape == (ROWS, LATENT, 12, 20)
    assert torch.equal(world.capture[STEP, "", "latent"], sample)
    torch.testing.assert_close(world.capture[STEP, "", "x0"].double(), clean, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["flux-dev", "qwen-image", "flux2-klein"])
def test_an_unpacked_latent_is_what_the_pipeline_decodes(seen: See, name: str) -> None:
    """The test's own unpacking against the pipelines'."""
    pipe = seen(name, True).pipe
    tokens = torch.randn(2, 60, 4 * LATENT)
    if name == "flux2-klein":
        ids = pipe._prepare_latent_ids(torch.zeros(2, 1, 6, 10))
        theirs = pipe._unpatchify_latents(pipe._unpack_latents_with_ids(tokens, ids, 6, 10))
    else:
        theirs = pipe._unpack_latents(tokens, 96, 160, pipe.vae_scale_factor)
    assert torch.equal(unpacked(tokens, 12, 20), theirs.reshape(2, LATENT, 12, 20))


@pytest.mark.parametrize("name", [name for name, call in CALL.items() if call.repeat_prompts])
def test_masks_in_the_wrong_order_are_read_as_the_model_got_them(tiny_pipe: GetPipe, name: str) -> None:
    """With several prompts and several images each, these pipelines hand over the masks of other prompts."""
    pipe, path = tiny_pipe(name), CALL[name].attention[0]
    layer = text_layers(pipe, path)[0]
    with Capture(pipe, [Tap(path, "attention")], steps=[1]) as capture, recorded(pipe, [layer]) as record:
        run(pipe, name, PROMPTS, guided=False, num_images_per_prompt=EACH, seeds=list(range(ROWS)))
    given = real_tokens(name, pipe, PROMPTS).repeat(EACH, 1)
    assert capture.token_mask is not None
    assert capture.token_mask.tolist() == given.tolist()
    inputs = record.attention[layer][0]
    expected = eager_attention(denoiser_of(pipe).get_submodule(layer), inputs, record.text_tokens[0])
    maps = capture[1, path, "attention"].flatten(2).double()
    torch.testing.assert_close(maps, expected * given[:, :, None], atol=1e-5, rtol=0)
