"""The encoder: what its predictions may and may not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from probe_lab.errors import ProbeError
from probe_lab.probes import Inputs, Probe, ProbeSpec
from probe_lab.probes.encoder import common_grid
from probe_lab.probes.inputs import LIMIT, Standardise
from probe_lab.probes.spec import TextMode
from probe_lab.probes.tokens import TokenMaps

TAPS = {
    "up/attention": (7, 8, 8),
    "down/attention": (7, 4, 4),
    "mid/activation": (6, 8, 8),
    "x0": (4, 16, 16),
}


def spec_of(text: TextMode = "tokens", **changes: object) -> ProbeSpec:
    values: dict[str, object] = {
        "kind": "cnn",
        "taps": dict(TAPS),
        "evaluators": ("a", "b"),
        "step": 5,
        "total_steps": 25,
        "text": text,
        "text_dim": 10,
        "token_dim": 12,
        "tokens": 7,
        "width": 16,
        "embedding": 8,
    }
    return ProbeSpec(**values | changes)  # type: ignore[arg-type]


def probe_of(spec: ProbeSpec, seed: int = 0) -> Probe:
    """A probe whose zero-initialised parts are not zero, so that nothing hides."""
    torch.manual_seed(seed)
    probe = Probe(spec)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return probe.eval()


def inputs_of(count: int = 6, prompts: int = 2, seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[True] * 5 + [False] * 2, [True] * 7])[:prompts]
    prompt = torch.arange(count) % prompts
    features = {tap: torch.rand(count, *shape, generator=generator) for tap, shape in TAPS.items()}
    for tap in ("up/attention", "down/attention"):
        features[tap] = features[tap] * mask[prompt][:, :, None, None]
    return Inputs(
        features=features,
        step=torch.full((count,), 5),
        prompt=prompt,
        text=torch.randn(prompts, 10, generator=generator),
        tokens=torch.randn(prompts, 7, 12, generator=generator),
        token_mask=mask,
    )


def rows_of(inputs: Inputs, rows: list[int]) -> Inputs:
    assert inputs.prompt is not None
    features = {tap: values[rows] for tap, values in inputs.features.items()}
    return replace(inputs, features=features, step=inputs.step[rows], prompt=inputs.prompt[rows])


@pytest.mark.parametrize("text", ["none", "pooled", "tokens"])
def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(text: TextMode) -> None:
    probe, inputs = probe_of(spec_of(text)), inputs_of()
    together = probe.predict(inputs)
    for row in range(6):
        torch.testing.assert_close(probe.predict(rows_of(inputs, [row]))[0], together[row], atol=1e-5, rtol=1e-5)


def test_text_that_is_repeated_per_sample_is_the_same_as_text_per_prompt() -> None:
    probe, inputs = probe_of(spec_of()), inputs_of()
    assert inputs.prompt is not None
    assert inputs.text is not None
    assert inputs.tokens is not None
    assert inputs.token_mask is not None
    rows = inputs.prompt
    spread = Inputs(inputs.features, inputs.step, None, inputs.text[rows], inputs.tokens[rows], inputs.token_mask[rows])
    torch.testing.assert_close(probe.predict(spread), probe.predict(inputs))


@pytest.mark.parametrize("kind", ["cnn", "prompt_only", "linear"])
def test_no_module_normalises_over_the_batch(kind: str) -> None:
    probe = Probe(spec_of(kind=kind, text="tokens" if kind == "cnn" else "none"))
    batch_norms = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)
    assert not [name for name, module in probe.named_modules() if isinstance(module, batch_norms)]
    assert kind != "cnn" or any(isinstance(module, nn.GroupNorm) for module in probe.modules())


def test_the_token_path_does_not_depend_on_the_order_of_tokens() -> None:
    torch.manual_seed(0)
    path = TokenMaps(2, (8, 8), token_dim=12, width=16).eval()
    maps, tokens = torch.rand(3, 7, 2, 8, 8), torch.randn(3, 7, 12)
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 7, [True] * 2 + [False] * 5])
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    pooled, painted = path(maps, path.project(tokens), mask)
    again, repainted = path(maps[:, order], path.project(tokens[:, order]), mask[:, order])
    torch.testing.assert_close(again, pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(repainted, painted, atol=1e-5, rtol=1e-5)
    other, _ = path(maps[:, order], path.project(tokens), mask)
    assert not torch.allclose(other, pooled, atol=1e-3)  # maps and their text belong together


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    path = TokenMaps(1, (8, 8), token_dim=12, width=16).eval()
    maps, tokens = torch.rand(2, 7, 1, 8, 8), torch.randn(2, 7, 12)
    mask = torch.arange(7)[None].expand(2, 7) < 4
    pooled, painted = path(maps, path.project(tokens), mask)
    maps[:, 4:], tokens[:, 4:] = torch.rand(2, 3, 1, 8, 8), 9.0
    again, repainted = path(maps, path.project(tokens), mask)
    torch.testing.assert_close((again, repainted), (pooled, painted))


def test_text_of_padding_changes_no_prediction() -> None:
    probe, inputs = probe_of(spec_of()), inputs_of()
    assert inputs.tokens is not None
    assert inputs.token_mask is not None
    tokens = torch.where(inputs.token_mask[:, :, None], inputs.tokens, 7.0)
    changed = replace(inputs, tokens=tokens)
    torch.testing.assert_close(probe.predict(changed), probe.predict(inputs))


def test_without_a_mask_tokens_without_attention_are_padding() -> None:
    probe, inputs = probe_of(spec_of("none")), inputs_of()
    blind = Inputs(inputs.features, inputs.step)
    torch.testing.assert_close(probe.predict(blind), probe.predict(inputs))


@pytest.mark.parametrize(("text", "sees"), [("none", ()), ("pooled", ("text",)), ("tokens", ("text", "tokens"))])
def test_a_text_mode_reads_exactly_its_text(text: TextMode, sees: tuple[str, ...]) -> None:
    probe, inputs = probe_of(spec_of(text)), inputs_of()
    before = probe.predict(inputs)
    for name in ("text", "tokens"):
        # Not a constant shift, which the LayerNorm in front would take out.
        after = probe.predict(replace(inputs, **{name: getattr(inputs, name).flip(0)}))
        assert torch.equal(before, after) is (name not in sees)


def test_the_step_is_seen() -> None:
    probe, inputs = probe_of(spec_of()), inputs_of()
    assert not torch.allclose(probe.predict(inputs), probe.predict(replace(inputs, step=inputs.step + 10)))


@pytest.mark.parametrize(
    ("shapes", "grid"),
    [
        ([(4, 8, 8), (9, 4, 4)], (8, 8)),
        ([(4, 16, 16), (9, 8, 8)], (8, 8)),
        ([(4, 64, 96)], (8, 12)),
        ([(4, 5, 3)], (5, 3)),
    ],
)
def test_the_common_grid(shapes: list[tuple[int, int, int]], grid: tuple[int, int]) -> None:
    assert common_grid(shapes) == grid


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 5, 3), (3, 2, 9), (3, 64, 48)])
@pytest.mark.parametrize("depth", [1, 4])
def test_odd_shapes_and_depths_work(shape: tuple[int, int, int], depth: int) -> None:
    probe = Probe(spec_of("none", taps={"a/activation": shape, "b/attention": shape}, depth=depth, width=6))
    features = {tap: torch.rand(2, *shape) for tap in probe.spec.taps}
    assert probe.predict(Inputs(features, torch.tensor([1, 25]))).shape == (2, 2)


def test_standardise_uses_its_buffers_only() -> None:
    layer = Standardise(3)
    layer.fit(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([2.0, 0.5, 0.0]))
    values = torch.tensor([3.0, 3.0, 4.0]).view(1, 3, 1, 1)
    assert layer(values).flatten().tolist() == [1.0, 2.0, 4.0]  # a constant channel is only centred
    assert layer(100 * values).flatten().tolist() == [LIMIT] * 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"taps": {}}, "no taps"),
        ({"text_dim": 0}, "needs pooled text embeddings"),
        ({"token_dim": 0}, "needs token embeddings"),
        ({"text": "none", "aligned": True, "text_dim": 0}, "without infonce"),
        ({"tokens": 9}, "7 tokens and the text encoder has 9"),
        ({"taps": {"a/attention": (5, 8, 8), "b/attention": (6, 8, 8)}, "text": "none"}, "tokenizer"),
        ({"kind": "attention_entropy"}, "reads attention only"),
    ],
)
def test_impossible_probes_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ProbeError, match=words):
        spec_of(**changes)  # type: ignore[arg-type]


def test_inputs_are_checked() -> None:
    probe, inputs = probe_of(spec_of()), inputs_of()
    with pytest.raises(ProbeError, match=r"reads 'x0', which was not given"):
        probe.predict(replace(inputs, features={t: v for t, v in inputs.features.items() if t != "x0"}))
    with pytest.raises(ProbeError, match=r"shape \(4, 8, 8\) and the probe was trained on \(4, 16, 16\)"):
        probe.predict(replace(inputs, features=dict(inputs.features) | {"x0": torch.zeros(6, 4, 8, 8)}))
    with pytest.raises(ProbeError, match="no tokens"):
        probe.predict(replace(inputs, tokens=None))
