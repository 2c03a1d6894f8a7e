"""A probe on disk: bit-equal after a round trip, one clear sentence when something is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from probe_lab.errors import ProbeError
from probe_lab.probes import Inputs, Probe, ProbeSpec, load_probe, save_probe
from probe_lab.probes.checkpoint import DESCRIPTION, WEIGHTS

TAPS = {"up.1/attention": (4, 8, 8), "x0": (2, 16, 16)}


def _inputs() -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return Inputs(
        {tap: torch.rand(3, *shape, generator=generator) for tap, shape in TAPS.items()},
        torch.full((3,), 5),
        torch.tensor([0, 1, 0]),
        torch.randn(2, 6, generator=generator),
        torch.randn(2, 4, 6, generator=generator),
        torch.ones(2, 4, dtype=torch.bool),
    )


@pytest.fixture
def probe() -> Probe:
    torch.manual_seed(0)
    spec = ProbeSpec(
        "cnn", dict(TAPS), ("b", "a"), 5, 25, "tokens", 6, 6, 4, 16, 2, 8, 0.1, True, "tiny-sd", "quickstart"
    )
    probe = Probe(spec)
    probe.standardise_features(
        {tap: torch.rand(shape[0]) for tap, shape in TAPS.items()},
        {tap: 0.5 + torch.rand(shape[0]) for tap, shape in TAPS.items()},
    )
    probe.standardise_targets(torch.tensor([1.0, 2.0]), torch.tensor([0.3, 7.0]), torch.tensor([0.9, 2.5]))
    rising = torch.randn(9, 2)
    probe.calibrate(rising, rising * torch.tensor([1.0, -1.0]))  # of the second only the order counts
    return probe


@pytest.mark.parametrize("kind", ["cnn", "linear"])
def test_a_loaded_probe_predicts_the_same_bits(probe: Probe, tmp_path: Path, kind: str) -> None:
    if kind == "linear":
        probe = Probe(ProbeSpec("linear", dict(TAPS), ("b", "a"), 5, 25))
    save_probe(tmp_path / "deep" / "folder", probe)
    loaded = load_probe(tmp_path / "deep" / "folder")
    assert loaded.spec == probe.spec
    assert loaded.unscaled == probe.unscaled
    assert list(loaded.spec.taps) == list(probe.spec.taps)
    assert torch.equal(loaded.predict(_inputs()), probe.predict(_inputs()))
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_the_description_says_what_the_probe_is(probe: Probe, tmp_path: Path) -> None:
    save_probe(tmp_path, probe)
    content = json.loads((tmp_path / DESCRIPTION).read_text())
    assert content["format_version"] == 1
    assert content["spec"]["backbone"] == "tiny-sd"
    assert content["spec"]["taps"] == {tap: list(shape) for tap, shape in TAPS.items()}
    assert content["targets"]["evaluators"] == ["b", "a"]
    assert content["targets"]["median"] == pytest.approx([0.9, 2.5])


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / DESCRIPTION).read_text())
        change(content)
        (folder / DESCRIPTION).write_text(json.dumps(content))

    return apply


def _spec(**changes: object) -> Callable[[Path], object]:
    return _edit(lambda content: content["spec"].update(changes))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "no probe in .*probe.safetensors"),
        (lambda folder: (folder / DESCRIPTION).unlink(), "no probe in .*probe.json"),
        (lambda folder: (folder / DESCRIPTION).write_text("{"), "not valid JSON"),
        (
            _edit(lambda content: content.update(format_version=2)),
            "format version 2 and this probe_lab reads 1",
        ),
        (_edit(lambda content: content["spec"].pop("width")), "lacks or has too much: width"),  # type: ignore[attr-defined]
        (_spec(taps=3), "taps=3, which has to be a mapping"),
        *[
            (_spec(**{name: value}), f"{name}=.*, which has to be .*: train the cell again")
            for name, value in [
                *[("width", value) for value in (-1, 0, "x", 2.0, True, None, 10**12, [64])],
                *[("dropout", value) for value in (5, 1, -0.1, "0.1", float("nan"), True)],
                *[("total_steps", value) for value in (0, "x", 10**30)],
                *[("step", value) for value in ("x", 0, -3)],
                *[("embedding", value) for value in (10**9, 0)],
                *[("depth", value) for value in (10**9, 0, "2")],
                *[("kind", value) for value in ("transformer", 1, ["cnn"], {})],
                *[("text", value) for value in ("all", None)],
                *[("evaluators", value) for value in ([], "one", [1], None)],
                *[("taps", value) for value in ({"x0": [4, 8]}, {"x0": [0, 8, 8]}, {"x0": "abc"}, {"x0": [4, 8, 1e9]})],
                *[("aligned", 1), ("backbone", 3), ("scalars", "x"), ("tokens", -1), ("text_dim", 2**40)],
            ]
        ],
        (_spec(step=26), "the step 26 of 25"),
        (_spec(width=30000), "has the shape .* describes another probe"),
        (_spec(width=2**20, embedding=2**20), "has the shape .* describes another probe"),
        (_spec(scalars=["x"]), "has a scalar that is none"),
        (_edit(lambda content: content.pop("code_version")), "code_version=None"),
        (_edit(lambda content: content.pop("weights_sha256")), "weights_sha256=None"),
        (_edit(lambda content: content.update(format_version=True)), "format version True"),
        (lambda folder: (folder / DESCRIPTION).write_text("[1]"), "format version None"),
        (_spec(width=8), "has the shape .* describes another probe"),
        (_spec(depth=3), "lacks tensor 'encoder.levels.2"),
        (_spec(depth=1), "has the unknown tensor 'encoder.levels.1"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(save({"a": torch.ones(1)})),
            "not the file that probe.json",
        ),
    ],
)
def test_a_damaged_probe_is_one_sentence(
    probe: Probe, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    save_probe(tmp_path, probe)
    damage(tmp_path)
    with pytest.raises(ProbeError, match=words) as error:
        load_probe(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["head.layers.4.weight", "target_std", "encoder.standardise.0.mean"])
def test_weights_that_are_not_finite_are_refused(probe: Probe, tmp_path: Path, name: str, value: float) -> None:
    """They would give every candidate the same score, or none."""
    save_probe(tmp_path, probe)
    state = load_file(tmp_path / WEIGHTS)
    state[name].view(-1)[-1] = value
    (tmp_path / WEIGHTS).write_bytes(save(state))
    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    _edit(lambda content: content.update(weights_sha256=digest))(tmp_path)
    with pytest.raises(ProbeError, match=f"'{name}' in .* holds NaN or infinity"):
        load_probe(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
@pytest.mark.parametrize("target", [None, "/dev/zero"])
def test_what_is_no_file_is_not_waited_for(probe: Probe, tmp_path: Path, name: str, target: str | None) -> None:
    save_probe(tmp_path, probe)
    (tmp_path / name).unlink()
    if target is None:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(target)
    with pytest.raises(ProbeError, match=f"not a regular file: {name}"):
        load_probe(tmp_path)


def test_links_to_files_are_files(probe: Probe, tmp_path: Path) -> None:
    save_probe(tmp_path / "there", probe)
    (tmp_path / "here").mkdir()
    for name in (WEIGHTS, DESCRIPTION):
        (tmp_path / "here" / name).symlink_to(tmp_path / "there" / name)
    assert load_probe(tmp_path / "here").spec == probe.spec


def test_a_folder_that_cannot_be_made_is_one_sentence(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProbeError, match="cannot write the probe"):
        save_probe(tmp_path / "file" / "folder", probe)


def test_nothing_in_the_weights_is_hidden_from_other_readers(probe: Probe, tmp_path: Path) -> None:
    save_probe(tmp_path, probe)
    assert set(load_file(tmp_path / WEIGHTS)) == set(probe.state_dict())
