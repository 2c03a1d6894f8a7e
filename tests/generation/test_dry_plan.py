"""The plan without weights, against real captures of the same (tiny) architectures and against published figures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from diffusers import DiffusionPipeline
from tiny_pipelines import CALL, build
from torch.utils.flop_counter import FlopCounterMode

from probe_lab.backbones.architectures import Architecture, Weightless, absent, architectures
from probe_lab.backbones.families import FAMILIES, family_of
from probe_lab.backbones.family import Family
from probe_lab.capture import Capture
from probe_lab.config import Backbone, CaptureConfig, Experiment, Prompts, Sampling
from probe_lab.errors import CaptureError, ConfigError
from probe_lab.generation.dry_plan import dry_plan, planned
from probe_lab.generation.measured_plan import Plan
from probe_lab.generation.tap_listing import computed_note, list_taps

SMALLEST = "stabilityai/stable-diffusion-2-1"
TINY = ["sd-v", "sdxl", "sd3.5", "flux-dev", "qwen-image"]
PROMPT = ["a red circle and a blue square"]
SAMPLING = Sampling(steps=2, guidance=3.0, height=96, width=160)


def _experiment(path: str = SMALLEST, family: str = "sd", **changes: object) -> Experiment:
    whole = Experiment(
        name="trial",
        backbone=Backbone(family=family, path=path),
        prompts=Prompts(source="file", path="nowhere.txt", count=30, seeds=2),
        sampling=Sampling(steps=25, guidance=7.5, height=256, width=256, device="cuda"),
        capture=CaptureConfig(steps=[3, 5], taps=["paper", "x0"]),
    )
    return replace(whole, **changes)


@pytest.mark.parametrize("hub_id", architectures())
def test_an_architecture_has_as_many_parameters_as_published(hub_id: str) -> None:
    architecture = architectures()[hub_id]
    model = Weightless(architecture, _family(architecture))
    counted = sum(weight.numel() for weight in model.denoiser.parameters())
    assert counted / 1e9 == pytest.approx(architecture.parameters, rel=1e-3)


@pytest.mark.parametrize("name", TINY)
def test_shapes_and_operations_are_those_of_a_real_generation(name: str, tmp_path: Path) -> None:
    pipe = build(name, tmp_path)
    family = family_of(pipe)
    options = family.call_options(SAMPLING, PROMPT) | {"output_type": "latent"}
    if "negative_prompt" in options:
        options["negative_prompt"] = PROMPT  # a plan takes both texts to be as long
    modules = [f"{path}/attention" for path in CALL[name].attention]
    taps = [*modules, *(f"{path}/activation" for path in CALL[name].activation), "latent", "x0"]
    with Capture(pipe, taps, [1]) as whole:
        pipe(**options)
    with Capture(pipe, taps, [1], tokens=5, size=4) as cut:
        pipe(**options)
    with FlopCounterMode(display=False) as counter:
        pipe(**options)
    denoiser = family.denoiser_of(pipe)
    counted = sum(counter.get_flop_counts()[type(denoiser).__name__].values()) / SAMPLING.steps

    tokens = whole.token_mask.shape[1]
    model = Weightless(_architecture_of(pipe, tokens), family)
    with Capture(model.pipe, taps, [1]) as dry:
        model.draw_one(SAMPLING)
    with Capture(model.pipe, taps, [1], tokens=5, size=4) as dry_cut:
        model.draw_one(SAMPLING)
    with FlopCounterMode(display=False) as dry_counter:
        model.draw_one(SAMPLING)
    assert _shapes(dry) == _shapes(whole)
    assert _shapes(dry_cut) == _shapes(cut) != _shapes(whole)
    assert dry_counter.get_total_flops() == counted > 0


def test_flux_takes_the_operations_that_its_layers_add_up_to() -> None:
    architecture = architectures()["black-forest-labs/FLUX.1-dev"]
    model = Weightless(architecture, _family(architecture))
    with FlopCounterMode(display=False) as counter:
        model.draw_one(Sampling(height=1024, width=1024))
    blocks, sequence, width = 19 + 38, 4096 + 512, 24 * 128
    # Per block, twelve matrices of width × width for each token, and two products of the attention.
    expected = blocks * (2 * sequence * 12 * width**2 + 4 * sequence**2 * width)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_taps_of_a_model_without_weights_are_computed_and_say_so() -> None:
    experiment = _experiment()
    listed = {str(entry.tap): entry for entry in list_taps(experiment)}
    assert listed["up_blocks.2/activation"].shape == (640, 32, 32)
    assert listed["up_blocks.2/activation"].in_paper
    assert listed["mid_block.attentions.0/attention"].shape == (77, 4, 4)
    assert {"latent", "x0", "lookahead"} < listed.keys()
    assert "not measured" in computed_note(experiment)
    assert computed_note(_experiment("", "", backbone=Backbone(name="tiny-sd"))) == ""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return dry_plan(_experiment(), architectures()[SMALLEST])


def test_a_plan_counts_images_and_bytes(plan: Plan) -> None:
    assert (plan.images, plan.steps) == (60, (3, 5))
    # The encoder of this UNet has no more than six.
    assert sum(tap.endswith("/attention") for tap in plan.shapes) == 6
    assert plan.shapes["up_blocks.2/activation"] == (640, 32, 32)
    assert plan.shapes["x0"] == (4, 32, 32)
    values = sum(map(math.prod, plan.shapes.values()))
    assert plan.text_bytes == 30 * ((77 + 1) * 1024 * 4 + 77)
    assert plan.total_bytes == 60 * (2 * 2 * values + plan.image_bytes) + plan.text_bytes


def test_a_plan_counts_hours_at_a_rate(plan: Plan) -> None:
    assert (plan.hardware, plan.units) == ("GPU", 2)
    assert "not measured" in plan.note
    # Half as fast, on four times as many cards.
    other = dry_plan(_experiment(workers=8), architectures()[SMALLEST], tflops=200)
    assert other.hours == pytest.approx(2 * plan.hours)
    assert other.seconds == pytest.approx(plan.seconds / 2)


def test_without_images_a_plan_ends_at_the_last_step(plan: Plan) -> None:
    without = CaptureConfig(steps=[3, 5], taps=["x0"], images=False)
    shorter = dry_plan(_experiment(capture=without), architectures()[SMALLEST])
    assert (shorter.image_bytes, plan.image_bytes) == (0, 256 * 256 * 1.5)
    assert shorter.hours == pytest.approx(plan.hours * 5 / 25)


def test_the_prompts_are_counted_when_they_are_there(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog\na cat\n", encoding="utf-8")
    prompts = Prompts(source="file", path=str(file), count=30, seeds=5)
    experiment = _experiment(prompts=prompts, capture=CaptureConfig(steps=[1], taps=["x0"]))
    assert dry_plan(experiment, architectures()[SMALLEST]).images == 10


@pytest.mark.parametrize(
    ("taps", "message"), [([], "capture.taps"), (["up_blocks.7/activation"], "up_blocks"), (["up.*"], "matches no tap")]
)
def test_taps_are_checked_as_with_weights(taps: list[str], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        dry_plan(_experiment(capture=CaptureConfig(steps=[1], taps=taps)), architectures()[SMALLEST])


def test_only_a_published_model_that_is_elsewhere_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    published = Backbone(family="sd", path=SMALLEST)
    assert absent(published) == architectures()[SMALLEST]
    assert absent(Backbone(name="tiny-sd")) is None
    assert absent(Backbone(family="sd", path="nobody/nothing")) is None
    with pytest.raises(CaptureError, match="StableDiffusionPipeline"):
        absent(Backbone(family="flux", path=SMALLEST))

    snapshot = tmp_path / "models--stabilityai--stable-diffusion-2-1" / "snapshots" / "c0ffee"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("c0ffee")
    (snapshot / "model_index.json").write_text("{}")
    assert absent(published) is not None  # the index alone
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert absent(published) is None


def test_a_rate_is_positive() -> None:
    with pytest.raises(ConfigError, match="--tflops is 0"):
        planned(_experiment(), tflops=0)


def test_a_limit_of_text_tokens_changes_what_is_padded_to_it() -> None:
    limited = Sampling(max_sequence_length=128)
    tokens = {hub_id: entry.text_tokens(limited) for hub_id, entry in architectures().items()}
    assert tokens["stabilityai/stable-diffusion-3-medium-diffusers"] == 77 + 128
    assert tokens["black-forest-labs/FLUX.1-dev"] == 128
    assert tokens["Qwen/Qwen-Image"] == architectures()["Qwen/Qwen-Image"].further_tokens < 128
    with pytest.raises(CaptureError, match="max_sequence_length"):
        dry_plan(_experiment(sampling=limited), architectures()[SMALLEST])


def _family(architecture: Architecture) -> Family:
    return next(family for family in FAMILIES if architecture.pipeline in family.pipelines)


def _architecture_of(pipe: DiffusionPipeline, tokens: int) -> Architecture:
    """What a data entry would say of a pipeline that is here."""
    family = family_of(pipe)
    denoiser = family.denoiser_of(pipe)
    config = {key: value for key, value in denoiser.config.items() if not key.startswith("_")}
    pooled = config.get("pooled_projection_dim") or 0
    if family.name == "sdxl":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return Architecture(
        pipeline=type(pipe).__name__,
        denoiser=type(denoiser).__name__,
        scheduler=type(pipe.scheduler).__name__,
        parameters=0.0,
        config=config,
        clip_tokens=tokens,
        pooled=pooled,
    )


def _shapes(capture: Capture) -> dict[str, tuple[int, ...]]:
    return {str(tap): tuple(tensor.shape) for (_, tap), tensor in capture.items()}
