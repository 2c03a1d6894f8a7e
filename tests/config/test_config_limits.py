"""Numbers, names and sizes that could not work are refused before any work, and the environment stays where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probe_lab.config import Experiment, load_experiment, with_changes
from probe_lab.config.keys import leaf_keys
from probe_lab.config.limits import RANGES
from probe_lab.errors import ConfigError, ProbeLabError
from probe_lab.sweep.grid import cells

Load = Callable[..., Experiment]


def smoke(*overrides: str) -> Experiment:
    return load_experiment("smoke", list(overrides))


FLOATS = [key for key, default in leaf_keys().items() if isinstance(default, float) and "split" not in key]


@pytest.mark.parametrize("key", [*FLOATS, "metrics.auc_threshold", "data.split.train"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", ".nan"])
def test_every_float_key_refuses_what_is_no_number(key: str, value: str) -> None:
    with pytest.raises(ProbeLabError, match=key.rpartition(".")[2] if "split" in key else rf"'{key}' is"):
        smoke(f"{key}={value}")


def test_every_number_has_a_range() -> None:
    without = {key for key, default in leaf_keys().items() if type(default) in (int, float)} - set(RANGES)
    assert without == {"probe.step", "data.split.train", "data.split.val", "data.split.test"}


@pytest.mark.parametrize("key", sorted(RANGES))
def test_sizes_without_a_limit_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{key}' (is|names) .*: it must"):
        smoke(f"{key}=1000000000000000")


@pytest.mark.parametrize(
    "override",
    [
        "sweep={trainer.seed: {from: 1, to: 1000000000000000}}",
        "sweep={trainer.seed: {from: 0, to: 1, count: 1000000000000}}",
        "sweep={trainer.learning_rate: {from: 0.1, to: 1e300, step: 1e-300}}",
        "sweep={trainer.seed: {from: 1, to: 100000}, probe.step: {from: 1, to: 100}}",
        "sweep=[{trainer.seed: {from: 1, to: 60000}}, {trainer.seed: {from: 1, to: 60000}}]",
        "sweep.seeds=1000000000",
        "tradeoff.candidates=[2, 1000000000000]",
        "prompts.count=99999999999999999999999",
        "trainer.seed=-1",
        "seed=-1",
        "sweep.seeds=-1",
    ],
)
def test_expansions_are_refused_by_arithmetic(override: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError):
        smoke(override)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("key", ["name", "cache.name"])
@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "../../x",
        "/abs",
        "a/b",
        "a\\b",
        "[/x]",
        "a]",
        "a\x1bb",
        "a\n",
        ".hidden",
        "a.",
        "a ",
        " a",
        "x" * 300,
    ],
)
def test_names_are_names(key: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{key}' is .* no name"):
        smoke(f"{key}={name}")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "[x]", ".h", "a b", "a\x1b"])
def test_evaluators_and_labels_are_names(name: str) -> None:
    for changes in ({"evaluators": [name]}, {"evaluators": [f"clip_score@a{name}@"]}, {"text.encoder": name}):
        with pytest.raises(ConfigError, match="no name"):
            with_changes(smoke(), changes)


def test_ordinary_names_stay_possible() -> None:
    for name in ("2024_01_05", "größe", "a b", "v1.2", "12:30:45", "~", "-x"):
        assert smoke(f"name={name}").runs_folder == Path("runs") / name


def test_a_step_that_nobody_wrote_does_not_stop_a_generation(tmp_path: Path) -> None:
    path = tmp_path / "few.yaml"
    path.write_text("backbone: tiny-sd\nsampling: {steps: 4}\ncapture: {steps: [2], taps: [x0]}\n")
    few = load_experiment(path)
    with pytest.raises(ConfigError, match=r"'probe.step' names step 5"):
        load_experiment(path, ["probe.step=5"])
    with pytest.raises(ConfigError, match=r"'probe.step' names step 5"):
        cells(few)
    assert cells(load_experiment(path, ["probe.step=2", "probe.taps=[x0]"]))


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2token")
    return "hunter2token"


def test_values_of_the_environment_are_used_and_never_stored(secret: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "backbone: tiny-sd\ncache: {root: '${oc.env:SECRET_TOKEN}/c'}\nreports: ${cache.root}\n"
        "probe: {taps: ['${oc.env:SECRET_TOKEN}', x0]}\nsweep: {cache.name: ['${oc.env:SECRET_TOKEN}', b]}\n"
    )
    experiment = load_experiment(path, ["tracking.uri=http://me:${oc.env:SECRET_TOKEN}@host"])
    assert experiment.cache_folder == Path(secret) / "c" / "mine"
    assert experiment.tracking.uri == f"http://me:{secret}@host"
    cell = with_changes(experiment, {"cache.name": secret, "backbone": {"family": "sd", "path": "x"}})
    for stored in (experiment.to_yaml(), cell.to_yaml()):
        assert secret not in stored
        assert "${oc.env:SECRET_TOKEN}" in stored
    assert "name: b" in with_changes(experiment, {"cache.name": "b"}).to_yaml()


@pytest.mark.parametrize(
    "key", ["name", "seed", "prompts.source", "prompts.path", "probe.loss", "probe.model", "evaluators"]
)
def test_values_of_the_environment_are_in_no_message(secret: str, key: str) -> None:
    with pytest.raises(ProbeLabError) as caught:
        smoke(f"{key}=${{oc.env:SECRET_TOKEN}}/x" if key == "name" else f"{key}=${{oc.env:SECRET_TOKEN}}")
    assert secret not in str(caught.value)
