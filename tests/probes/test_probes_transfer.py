"""Probes elsewhere: what they are given is what the data module would give, resized where it must be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from probe_lab.cache import Cache
from probe_lab.data import ProbeDataModule, SplitFractions
from probe_lab.probes import applied_elsewhere as transfer
from probe_lab.probes.applied_elsewhere import ProbeReading, predict_at, read_samples, refusal
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec

SPEC = ProbeSpec(
    kind="cnn",
    taps={"up/attention": (5, 8, 8), "x0": (4, 16, 16)},
    evaluators=("good", "other"),
    step=5,
    total_steps=25,
    text="tokens",
    text_dim=12,
    token_dim=12,
    tokens=5,
    width=16,
    embedding=16,
)


def _probe(spec: ProbeSpec) -> Probe:
    torch.manual_seed(0)
    return Probe(spec).eval()


def _itself(spec: ProbeSpec) -> dict[str, str]:
    return {tap: tap for tap in spec.taps}


def test_at_home_it_predicts_what_the_data_module_gives(planted: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ProbeDataModule(
        planted,
        step=5,
        taps=list(SPEC.taps),
        evaluators=["good", "other"],
        fractions=SplitFractions(0.7, 0.1, 0.2),
        text_encoder="backbone",
    )
    probe = _probe(SPEC)
    batches = [(batch.sample_id, probe.predict(Inputs.of(batch))) for batch in data.test_dataloader()]
    samples, expected = (torch.cat(column).numpy() for column in zip(*batches, strict=True))
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 7 * (5 * 64 + 4 * 256) * 4)  # seven samples at a time
    (found,) = predict_at(planted, 5, [ProbeReading(probe, _itself(SPEC))], samples)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found[:, 0]) > 0.01


def test_another_tap_is_read_and_jobs_share_arrays(planted: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataclasses.replace(SPEC, taps={"x0": (4, 16, 16)}, text="none")
    probe = _probe(spec)
    samples = np.array([3, 4, 5, 118, 119, 120, 121, 700])  # over the edges of shards
    read: list[str] = []
    original = transfer.read_samples

    def counted(cache: Cache, key: str, ids: np.ndarray) -> torch.Tensor:
        read.append(key)
        return original(cache, key, ids)

    monkeypatch.setattr(transfer, "read_samples", counted)
    jobs = [
        ProbeReading(probe, {"x0": "latent"}),
        ProbeReading(probe, {"x0": "x0"}),
        ProbeReading(_probe(spec), {"x0": "latent"}),
    ]
    away, home, again = predict_at(planted, 5, jobs, samples)
    assert sorted(read) == ["5/latent", "5/x0"]
    latent = planted.read_all("5/latent")[samples].float()
    alone = [probe.predict(Inputs({"x0": row[None]}, torch.tensor([5]))) for row in latent]
    np.testing.assert_allclose(away, torch.cat(alone).numpy(), atol=1e-5)
    np.testing.assert_array_equal(away, again)
    assert not np.allclose(away, home)


def test_the_true_step_is_told(planted: Cache) -> None:
    spec = dataclasses.replace(SPEC, taps={"x0": (4, 16, 16)}, text="none", step=1)
    probe = _probe(spec)
    samples = np.arange(12)
    (found,) = predict_at(planted, 5, [ProbeReading(probe, {"x0": "x0"})], samples)
    x0 = planted.read_all("5/x0")[:12].float()
    for step, same in ((5, True), (1, False)):
        expected = probe.predict(Inputs({"x0": x0}, torch.full((12,), step)))
        assert np.allclose(found, expected.numpy(), atol=1e-5) is same


@pytest.mark.parametrize("side", [8, 32])
def test_another_size_is_resized(planted: Cache, side: int) -> None:
    spec = dataclasses.replace(SPEC, taps={"x0": (4, side, side)}, text="none")
    probe = _probe(spec)
    (found,) = predict_at(planted, 5, [ProbeReading(probe, {"x0": "latent"})], np.arange(6))
    latent = planted.read_all("5/latent")[:6].float()
    if side == 8:
        resized = latent.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean(dim=(3, 5))
    else:
        resized = F.interpolate(latent, size=(32, 32), mode="bilinear", align_corners=False)
    expected = probe.predict(Inputs({"x0": resized}, torch.full((6,), 5)))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_rows_are_those_of_the_samples_in_any_order(planted: Cache) -> None:
    samples = np.array([700, 5, 6, 7, 119, 120, 3])
    rows = read_samples(planted, "5/mid/activation", samples)
    assert torch.equal(rows, planted.read_all("5/mid/activation")[samples])


def test_refusals_name_what_does_not_fit(planted: Cache) -> None:
    one = dataclasses.replace(SPEC, taps={"x0": (4, 16, 16)}, text="none")
    attention = dataclasses.replace(SPEC, taps={"up/attention": (5, 8, 8)}, text="none")
    assert refusal(one, planted, 5, {"x0": "latent"}) == ""
    assert refusal(SPEC, planted, 5, _itself(SPEC)) == ""
    assert refusal(one, planted, 3, {"x0": "x0"}) == "step 3 was not captured"
    assert refusal(one, planted, 5, {"x0": "mid/activation"}) == "another kind of array"
    assert refusal(one, planted, 5, {"x0": "y0"}) == "that cache has no such tap"
    wider = dataclasses.replace(one, taps={"x0": (8, 16, 16)})
    assert refusal(wider, planted, 5, {"x0": "x0"}) == "another number of channels (4, not 8)"
    longer = dataclasses.replace(attention, taps={"up/attention": (7, 8, 8)})
    assert refusal(longer, planted, 5, {"up/attention": "up/attention"}) == "another number of tokens (5, not 7)"
    faster = dataclasses.replace(one, total_steps=4)
    assert refusal(faster, planted, 5, {"x0": "x0"}) == "25 sampling steps where the probe was trained on 4"
    stranger = dataclasses.replace(SPEC, text_encoder="clip_score")
    assert refusal(stranger, planted, 5, _itself(SPEC)) == "that cache has no text of clip_score"
    wide = dataclasses.replace(SPEC, token_dim=24)
    assert refusal(wide, planted, 5, _itself(SPEC)) == "another width of text embeddings"
