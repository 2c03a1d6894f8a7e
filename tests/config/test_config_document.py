"""What is written is what arrives: texts as texts, numbers in decimal digits, and errors with their place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_lab.config import Experiment, load_experiment
from probe_lab.config.document import read_value
from probe_lab.config.yaml_text import read_yaml
from probe_lab.errors import ConfigError

BASE = "backbone: tiny-sd\n"
TEXTS = [
    "2024_01_05",
    "1234567e8",
    "no",
    "null",
    "~",
    "1e3",
    "0x10",
    "12:30:45",
    "2024-01-05",
    "010",
    ".5",
    "on",
    "=",
    "True",
]


@pytest.fixture
def load(tmp_path: Path):
    def load_text(text: str | bytes, *overrides: str) -> Experiment:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_experiment(path, list(overrides))

    return load_text


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_key_takes_the_text_in_files_and_overrides(load, text: str) -> None:
    rest = (
        f"prompts: {{source: file, path: {text}, revision: {text}}}\n"
        f"scoring: {{models: {{a: {{checkpoint: {text}, base: {text}}}}}}}\n"
        f"probe: {{taps: [{text}, x0]}}\n"
        f"sweep: {{cache.name: [{text}, b], probe.taps: [{text}, [{text}]]}}\n"
    )
    experiment = load(f"backbone: {{family: sd, path: {text}}}\n{rest}")
    model = experiment.scoring.models["a"]
    found = {
        experiment.backbone.path,
        experiment.prompts.path,
        experiment.prompts.revision,
        model.checkpoint,
        model.base,
    }
    assert found == {text}
    assert experiment.probe.taps == [text, "x0"]
    assert experiment.sweep == ({"cache.name": (text, "b"), "probe.taps": (text, [text])},)
    keys = [f"cache.root={text}", f"scoring.models.a.checkpoint={text}", f"sweep={{prompts.revision: [{text}]}}"]
    changed = load(BASE, *keys, f"probe.taps=[{text}]")
    assert (changed.cache.root, changed.scoring.models["a"].checkpoint, changed.probe.taps) == (text, text, [text])
    assert changed.sweep == ({"prompts.revision": (text,)},)
    assert load(experiment.to_yaml()) == experiment


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: "${" not in text)


@given(ANY_TEXT)
def test_any_text_of_an_override_arrives(text: str) -> None:
    assert text[0] in "'\"" or read_value("cache.root", text) == text
    assert read_value("cache.root", yaml.safe_dump(text, default_style='"', width=10**6).strip()) == text


@settings(max_examples=15, deadline=None)
@given(ANY_TEXT.filter(lambda text: text != "???" and text[0] not in "'\""))
def test_any_text_is_in_the_experiment_and_in_what_is_stored(text: str) -> None:
    experiment = load_experiment("smoke", [f"cache.root={text}"])
    assert experiment.cache.root == text
    assert read_yaml(experiment.to_yaml())["cache"]["root"] == text


def test_quotes_of_yaml_are_taken_off(load) -> None:
    assert load(BASE, 'cache.root="a b"').cache.root == "a b"
    assert load(BASE, "cache.root='it''s'").cache.root == "it's"
    assert load(BASE, 'cache.root="a" and "b"').cache.root == '"a" and "b"'


@pytest.mark.parametrize("number", ["010", "0x10", "1_000", "0b11", "1:30", "1e3", "1.0", "", "five"])
@pytest.mark.parametrize("key", ["seed", "prompts.count"])
def test_whole_numbers_are_decimal(load, key: str, number: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{key}' in the overrides is not valid: .*write one in decimal digits"):
        load(BASE, f"{key}={number}")


@pytest.mark.parametrize(
    "override",
    [
        "capture.steps=[010]",
        "tradeoff.candidates=[2, 0x10]",
        "sweep={probe.step: [010]}",
        "sweep={probe.step: {from: 010, to: 12}}",
        "sweep={probe.width: {from: 8, to: 1_000, count: 3}}",
        "trainer.learning_rate=1_0.5",
        "probe.dropout=00.5",
        "select.schedule=[{step: 010, keep: 2}]",
    ],
)
def test_numbers_within_lists_and_ranges_are_decimal_too(load, override: str) -> None:
    with pytest.raises(ConfigError, match="write one in decimal digits"):
        load(BASE, override)


def test_truth_is_written_in_yamls_words(load) -> None:
    assert [load(BASE, f"prompts.shuffle={word}").prompts.shuffle for word in ("true", "Yes", "on")] == [True] * 3
    assert not load(BASE, "prompts.shuffle=no").prompts.shuffle
    for word in ("2", "y", "", "[]", "maybe"):
        with pytest.raises(ConfigError, match=r"'prompts.shuffle' in the overrides is not valid"):
            load(BASE, f"prompts.shuffle={word}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluators=shapes_reward", r"write evaluators=\[shapes_reward\]"),
        ("evaluators={a: b}", r"write evaluators=\["),
        ("evaluators.0=x", r"place in the list 'evaluators'.* write evaluators=\["),
        ("evaluators[0]=x", r"place in the list 'evaluators'"),
        ("capture.taps.1=x0", r"place in the list 'capture.taps'"),
        ("capture.steps={from: 1, to: 4}", r"'capture.steps' .* list"),
        ("tradeoff.candidates={a: 2}", r"'tradeoff.candidates' .* list"),
        ("seed.x=3", r"'seed' has no keys"),
        ("seed={a: 1}", r"'seed' .* whole number, no mapping"),
        ("cache.name=[a]", r"'cache.name' is '\[a\]', which is no name"),
        ("probe.step", r"write KEY=VALUE"),
        ("seed=[", r"'seed=\[' in the overrides, line 1 cannot be read"),
        (
            "data.residency=fast",
            r"in the overrides .*'fast' is none of its values: .*\(allowed: auto, memory, stream\)",
        ),
        ("prompts.path=${name", r"'prompts.path' in the overrides is not valid"),
        ("trainer.strategy=ddp", r"'trainer.strategy' .* is no key any more"),
    ],
)
def test_errors_of_overrides_are_one_line_with_the_key(load, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(BASE, override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntrainer:\n\tmax_epochs: 3\n", r"line 3 .*found character '\\t'"),
        ("name: a\nseed: 1\nseed: 2\n", r"line 3: 'seed' is there twice \(also on line 2\)"),
        ("name: a\ntrainer: {seed: 1, seed: 2}\n", r"line 2: 'seed' is there twice"),
        ('name: "a\nseed: 1\n', r"line 3 .*unexpected end of stream .*begins on line 1"),
        ("name: a\n  seed: 1\n", r"line 2 .*mapping values are not allowed"),
        ("name: a\nprompts: {path: *there}\n", r"line 2 .*\*there stands for nothing"),
        ("name: a\ncapture: {steps: [1, 2}\n", r"line 2 "),
        ("a: &a [*a]\n", r"line 1 .*stands for nothing"),
        (b"name: a\n# caf\xe9\n", r"line 2: the byte 0xe9 is no UTF-8"),
        ("name: a\n".encode("utf-16"), r"UTF-16 text: save it as UTF-8"),
        ("name: a\n".encode("utf-16-le"), r"line 1: there are NUL bytes, as in UTF-16"),
        (b"name: a\nseed: \x001\n", r"line 2: there are NUL bytes"),
        (b"name: a\nseed: \x1b1\n", r"line 2: the character U\+001B"),
        (b"", r"is empty"),
        (b"# nothing\n", r"is empty"),
        ("- a\n- b\n", r"holds no keys"),
        ("name: a\n--- \nname: b\n", r"line 2 .*another document"),
        ("? [a]\n: 1\n", r"line 1: a list or mapping is no name"),
        ("<<: 3\n", r"line 1 .*expected a mapping"),
        (BASE + "data: {residency: memori}\n", r"'data.residency' in .*mine.yaml, line 2 .* did you mean 'memory'"),
        (BASE + "probe:\n  step: five\n", r"'probe.step' in .*mine.yaml, line 3 is not valid: 'five'"),
        (BASE + "evaluators: shapes_reward\n", r"line 2 is not valid: it is a list, so write \[shapes_reward\]"),
        (BASE + "prompts:\n  count: 0\n", r"'prompts.count' is 0: .*mine.yaml, line 3\)"),
        (BASE + "probe: 3\n", r"'probe' in .*mine.yaml, line 2 is a section"),
        ("[" * 100_000, r"nested more than 64"),
    ],
)
def test_errors_of_a_file_are_one_line_with_file_line_and_cause(load, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(text)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_yaml_allows_still_works(load) -> None:
    text = "﻿backbone: tiny-sd\ntrainer: &t {seed: 3}\ndata: {batch_prompts: 4}\nprobe: {<<: {width: 8}, depth: 3}\n"
    experiment = load(text, "trainer.max_epochs=3")
    assert (experiment.trainer.seed, experiment.probe.width, experiment.probe.depth) == (3, 8, 3)
    assert load(BASE + "name: a\nreports: out/${name}\n").reports == "out/a"
    assert load(BASE, "metrics.auc_threshold=null").metrics.auc_threshold is None
