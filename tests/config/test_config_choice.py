from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_lab.config import Choice, Operand
from probe_lab.config.keys import key_of
from probe_lab.errors import ConfigError

CELL = {
    "probe.step": Operand(5, of_key=True),
    "probe.loss": Operand("mse+listwise", of_key=True),
    "probe.model": Operand("cnn", of_key=True),
    "probe.taps": Operand(["up_blocks.1.attentions.0/attention", "x0"], called="joint".__eq__, of_key=True),
    "probe.within_prompt": Operand(True, of_key=True),
    "probe.steps": Operand([1, 5], of_key=True),
    "data.residency": Operand(None, of_key=True),
    "probe.temperature": Operand(0.5, of_key=True),
    "trainer.seed": Operand(2, of_key=True),
    "data.batch_prompts": Operand(16, of_key=True),
    "metrics.auc_threshold": Operand(None, of_key=True),
    "backbone.name": Operand("tiny-sd", of_key=True),
}


def holds(text: str) -> bool:
    return Choice.parse(text, (), where="here").holds(CELL.__getitem__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ('step in [5, 10] and loss != "mse"', True),
        ("step in (1, 3)", False),
        ("probe.step == 5 and data.batch_prompts >= 16", True),
        ("1 < step <= 5", True),
        ("1 < step < 5", False),
        ("not (seed == 2 or seed == 3)", False),
        ("temperature < 0.6 and temperature != -1", True),
        ("within_prompt and not step == 4", True),
        ("auc_threshold == None", True),
        ("auc_threshold is None", True),
        ('backbone == "tiny-sd"', True),
        ('"listwise" in loss', True),
        ('"infonce" not in loss', True),
        ('model in ["linear", "cnn"]', True),
        ('"attention" in taps', True),
        ('"mid_block" in taps', False),
        ('"x0" in taps', True),
        ('"activation" in taps', False),
        ('"attentions" in taps', False),
        ('"up_blocks.1" in taps', True),
        ('"up_blocks.1.attentions.0" in taps', True),
        ('"up_blocks.10" in taps', False),
        ('"up_blocks.1.attentions.0/attention" in taps', True),
        ('"up_blocks.*/attention" in taps', True),
        ('"down_blocks.*" in taps', False),
        ('"" in taps', False),
        ('"joint" in taps', True),
        ("5 in probe.steps", True),
        ("4 not in probe.steps", True),
        ('"mse" in data.residency', False),
        ('taps == "x0"', False),
        ('taps == "up_blocks.1.attentions.0/attention+x0"', True),
        ('taps == ["up_blocks.1.attentions.0/attention", "x0"]', True),
        ('taps == "joint"', True),
        ('taps in ["early", "joint"]', True),
        ('taps != "early"', True),
        ("step in {5, 6}", True),
    ],
)
def test_what_a_test_means(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepp == 5", "there is no key 'stepp': did you mean 'step'"),
        ("probe.stepp == 5", "did you mean 'probe.step'"),
        ("name == 'x'", "several keys are called 'name': write one of backbone.name"),
        ("1 == 1", "names no key"),
        ("step + 1 == 6", r"'step \+ 1' is no value"),
        ("step if step else step", "is not allowed"),
        ("len(taps) == 1", r"'len\(taps\)' is no value"),
        ("__import__('os').system('true')", "is not allowed"),
        ("step == __import__('os')", "is no value"),
        ("step == (lambda: 5)()", "is no value"),
        ("taps[0] == 'x0'", "is no value"),
        ("step.__class__ == 5", "there is no key 'step.__class__'"),
        ("[step for step in (1, 2)]", "is not allowed"),
        ("f'{step}' == '5'", "is no value"),
        ("step := 5", "it cannot be read"),
        ("step ==", "it cannot be read"),
        ("step = 5", "it cannot be read"),
        ("step == b'5'", "is no value"),
        ("step == ...", "is no value"),
        ("(" * 500 + "step", "it cannot be read"),
        ("step == 5\x00", "it cannot be read"),
    ],
)
def test_what_is_no_test_is_refused_when_it_is_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Choice.parse(text, (), where="'sweep.select'")
    assert str(caught.value).startswith("'sweep.select' is '")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step < 'a'", "5 and 'a' have no order"),
        ("step", "'step' is 5, which is neither true nor false"),
        ("step in 5", "5 cannot be in 5"),
        ("5 in loss", "5 cannot be in 'mse"),
        ("auc_threshold > 1", "have no order"),
    ],
)
def test_values_that_do_not_compare_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        holds(text)


def test_a_short_name_is_the_swept_key_then_that_of_the_probe_then_of_the_trainer() -> None:
    assert key_of("seed", ()) == "trainer.seed"
    assert key_of("seed", ("seed",)) == "seed"
    assert key_of("seed", ("seed", "trainer.seed")) == "trainer.seed"
    assert key_of("steps", ("sampling.steps",)) == "sampling.steps"
    assert key_of("evaluators", ()) == "probe.evaluators"
    assert key_of("batch_prompts", ()) == "data.batch_prompts"
    assert key_of("data.split.train", ()) == "data.split.train"
    assert key_of("steps", ()) == "probe.steps"
    with pytest.raises(ConfigError, match=r"several keys .* sampling.device, scoring.device"):
        key_of("device", ())


_NUMBERS = {"step": 5, "seed": 2, "temperature": 0.5}
_TEXTS = {"loss": "mse+listwise", "model": "cnn"}
_number = st.sampled_from([0, 1, 2, 5, 0.5, -3])
_text = st.sampled_from(["mse", "listwise", "mse+listwise", "cnn", "linear", ""])
_comparison = st.one_of(
    st.builds(
        lambda name, sign, value: f"{name} {sign} {value!r}",
        st.sampled_from(sorted(_NUMBERS)),
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        _number,
    ),
    st.builds(lambda low, name, high: f"{low!r} < {name} <= {high!r}", _number, st.sampled_from(["step"]), _number),
    st.builds(lambda value, name: f"{value!r} in {name}", _text, st.sampled_from(sorted(_TEXTS))),
    st.builds(
        lambda name, sign, values: f"{name} {sign} {values!r}",
        st.sampled_from([*_NUMBERS, *_TEXTS]),
        st.sampled_from(["in", "not in"]),
        st.lists(_number | _text, max_size=4),
    ),
)
_tests = st.recursive(
    _comparison,
    lambda inner: st.one_of(
        st.builds(lambda part: f"not ({part})", inner),
        st.builds(lambda a, word, b: f"({a}) {word} {b}", inner, st.sampled_from(["and", "or"]), inner),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(_tests)
def test_tests_mean_what_python_means(text: str) -> None:
    assert holds(text) is eval(text, {"__builtins__": {}}, _NUMBERS | _TEXTS)


@settings(max_examples=300)
@given(
    st.text(st.sampled_from("step lox0=!<>[](),.'\"'and or not in 15+-*@:{}\n#\\"), max_size=30) | st.text(max_size=30)
)
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        holds(text)
    except (ConfigError, KeyError):  # KeyError: a key that this test's cell lacks
        return
