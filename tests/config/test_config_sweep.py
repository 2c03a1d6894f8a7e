from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from probe_lab.config import Conditional, Experiment, build_experiment, load_experiment, with_changes
from probe_lab.errors import ConfigError

GRIDS = "backbone: tiny-sd\nsweep:\n- probe.step: [1, 5]\n- probe.loss: [mse, listwise]\n"
ONE = "backbone: tiny-sd\nsweep: {sets: {joint: [x0, latent]}, select: step == 1, probe.step: [1, 5]}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str) -> Path:
        path = tmp_path / "trial.yaml"
        path.write_text(text)
        return path

    return write_file


def experiment_of(sweep: object, **keys: object) -> Experiment:
    return build_experiment(OmegaConf.create({"backbone": "tiny-sd", "sweep": sweep, **keys}), OmegaConf.create({}))


def test_every_form_of_an_axis() -> None:
    grid = {
        "probe.step": {"from": 1, "to": 9, "step": 4},
        "probe.width": [8, {"from": 16, "to": 32, "count": 2}],
        "probe.temperature": {"values": [0.1, 0.5], "if": '"listwise" in loss'},
        "probe.margin": {"values": {"from": 0, "to": 1, "step": 0.5}, "if": "step > 1"},
        "probe.taps": ["x0", ["x0", "latent"], {"all": "up*"}],
    }
    assert experiment_of(grid).sweep == (
        {
            "probe.step": (1, 5, 9),
            "probe.width": (8, 16, 32),
            "probe.temperature": Conditional((0.1, 0.5), '"listwise" in loss'),
            "probe.margin": Conditional((0.0, 0.5, 1.0), "step > 1"),
            "probe.taps": ("x0", ["x0", "latent"], {"all": "up*"}),
        },
    )


def test_options_beside_one_grid_or_several() -> None:
    one = experiment_of({"select": "step == 1", "sets": {"a": ["x0"]}, "probe.step": [1, 5]})
    several = experiment_of({"select": "step == 1", "sets": {"a": ["x0"]}, "grids": [{"probe.step": [1, 5]}]})
    assert one == several
    assert (one.sweep, one.only, one.sets) == (({"probe.step": (1, 5)},), "step == 1", {"a": ("x0",)})
    assert experiment_of({}).sweep == experiment_of([]).sweep == experiment_of(None).sweep == ()
    assert experiment_of({"select": "step == 5"}).sweep == ()


def test_seeds_are_an_axis_of_every_grid() -> None:
    grids = [{"probe.step": [1]}, {"probe.loss": ["mse"], "trainer.seed": [7]}]
    assert experiment_of({"seeds": 2, "grids": grids}).sweep == (
        {"trainer.seed": (0, 1), "probe.step": (1,)},
        {"probe.loss": ("mse",), "trainer.seed": (0, 1)},
    )
    assert experiment_of({"seeds": 3}).sweep == ({"trainer.seed": (0, 1, 2)},)


def test_options_of_the_overrides_leave_the_grids_of_a_file(write) -> None:
    select = 'step in [5,10] and "attention" in taps'
    chosen = load_experiment(write(GRIDS), [f"sweep.select={select}", "sweep.seeds=2", "sweep.sets.a=[x0]"])
    assert chosen.only == select
    assert chosen.sets == {"a": ("x0",)}
    assert chosen.sweep == (
        {"trainer.seed": (0, 1), "probe.step": (1, 5)},
        {"trainer.seed": (0, 1), "probe.loss": ("mse", "listwise")},
    )
    again = load_experiment(write(ONE), ['sweep.select="attention" in taps', "sweep.sets.b=[x0]"])
    assert (again.sweep, again.only) == (({"probe.step": (1, 5)},), '"attention" in taps')
    assert again.sets == {"joint": ("x0", "latent"), "b": ("x0",)}
    assert load_experiment(write(ONE), ["sweep.select="]).only == ""


def test_a_sweep_of_the_overrides_replaces_all_but_the_sets(write) -> None:
    found = load_experiment(write(ONE), ["sweep={probe.taps: [joint]}", "sweep.select=step == 5"])
    assert (found.sweep, found.only) == (({"probe.taps": ("joint",)},), "step == 5")
    assert found.sets == {"joint": ("x0", "latent")}
    assert load_experiment(write(ONE), ["sweep=[]"]).sweep == ()
    assert load_experiment(write(ONE), ["sweep=[]"]).only == ""


def test_references_within_a_sweep_are_followed(write) -> None:
    text = "backbone: tiny-sd\ncapture: {taps: [x0, latent]}\nsweep: {probe.taps: ['${capture.taps}']}\n"
    assert load_experiment(write(text)).sweep == ({"probe.taps": (["x0", "latent"],)},)
    assert load_experiment(write(text), ["capture.taps=[x0]"]).sweep == ({"probe.taps": (["x0"],)},)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("3", r"'sweep' holds '3': it is a mapping, or a list of mappings"),
        ("[3]", r"'sweep' holds '3'"),
        ("{probe.stp: [1]}", r"unknown key 'probe.stp' in sweep: did you mean 'probe.step'"),
        ("{selct: x}", r"unknown key 'selct' in sweep: did you mean 'select'"),
        ("[{select: 'step == 1', probe.step: [1]}]", r"write \{select: ..., grids: \[...\]\}, for all grids"),
        ("{grids: [{}], probe.step: [1]}", r"'sweep' has 'grids' and beside it 'probe.step'"),
        ("{grids: 3}", r"'sweep.grids' holds '3'"),
        ("{probe.step: {values: [1]}}", r"values and no 'if'"),
        ("{probe.step: {values: [1], fi: x}}", r"unknown word 'fi' .* did you mean 'if'"),
        ("{probe.step: {values: [], if: 'seed == 1'}}", r"write a list with at least one value"),
        ("{probe.step: {values: [1], if: 'sed == 1'}}", r"'if' of the sweep over 'probe.step' is .* mean 'seed'"),
        ("{probe.step: {a: 1}}", r"write a list with at least one value, a range"),
        ("{probe.step: [1], select: 3}", r"'sweep.select' is 3: write a test"),
        ("{probe.step: [1], select: 'stp == 1'}", r"'sweep.select' is 'stp == 1': .*did you mean 'step'"),
        ("{seeds: 0}", r"'sweep.seeds' is 0: write how many"),
        ("{seeds: [1]}", r"'sweep.seeds' is \[1\]"),
        ("{sets: [x0]}", r"'sweep.sets' holds"),
        ("{sets: {a: x0}}", r"the set 'a' in sweep.sets holds 'x0': write a list"),
        ("{sets: {a: []}}", r"the set 'a' in sweep.sets holds '\[\]'"),
        ("{sets: {paper: [x0]}}", r"cannot be called 'paper'"),
        ("{sets: {a/b: [x0]}}", r"cannot be called 'a/b'"),
    ],
)
def test_what_is_no_sweep_is_refused_by_name(write, sweep: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(write("backbone: tiny-sd\n"), [f"sweep={sweep}"])
    assert "\n" not in str(caught.value)


def test_an_axis_or_a_slip_as_an_override_is_told_apart(write) -> None:
    with pytest.raises(ConfigError, match=r"write a sweep, 'sweep=\{probe.step: \[1\]\}', or choose"):
        load_experiment(write(GRIDS), ["sweep.probe.step=[1]"])
    with pytest.raises(ConfigError, match=r"unknown key 'sweep.sedes' .* did you mean 'seeds'"):
        load_experiment(write(GRIDS), ["sweep.sedes=3"])


def test_what_an_experiment_holds_beside_its_keys_is_no_key(write) -> None:
    for key in ("only", "sets", "asked"):
        with pytest.raises(ConfigError, match=f"unknown key '{key}' in the overrides"):
            load_experiment(write(GRIDS), [f"{key}=x"])


def test_what_was_asked_for_is_kept_and_compares_equal(write) -> None:
    path = write(GRIDS)
    asked = load_experiment(path, ["prompts.count=300"])
    assert asked.asked == (str(path), "prompts.count=300")
    assert asked == load_experiment(path)
    assert with_changes(asked, {"probe.step": 1}).asked == asked.asked
    assert with_changes(asked, {"backbone": "tiny-sd3"}).asked == asked.asked


_TAPS = st.sampled_from(["x0", "latent", "up*", "joint", ["x0", "latent"], {"each": "joint"}, {"all": "*"}])
_AXES = st.fixed_dictionaries(
    {},
    optional={
        "probe.step": st.lists(st.integers(1, 25), min_size=1, max_size=3, unique=True)
        | st.builds(lambda a, b: {"from": min(a, b), "to": max(a, b)}, st.integers(1, 25), st.integers(1, 25)),
        "probe.taps": st.lists(_TAPS, min_size=1, max_size=3, unique_by=str),
        "probe.loss": st.lists(
            st.sampled_from(["mse", "listwise", "mse+listwise"]), min_size=1, max_size=3, unique=True
        ),
        "trainer.learning_rate": st.builds(
            lambda low, count: {"from": low, "to": 10 * low, "count": count, "scale": "log"},
            st.floats(1e-6, 1e-2),
            st.integers(2, 5),
        ),
        "probe.temperature": st.builds(
            lambda values: {"values": values, "if": "'listwise' in loss or step < 9"},
            st.lists(st.floats(0.01, 9), min_size=1, max_size=3, unique=True),
        ),
        "data.split": st.just([{"train": 0.6, "val": 0.2, "test": 0.2}]),
    },
)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(_AXES, max_size=3),
    st.sampled_from(["", "step in [5, 10] and loss != 'mse'", '"x0" in taps']),
    st.none() | st.integers(1, 3),
)
def test_any_sweep_survives_the_round_trip(grids: list[dict[str, object]], select: str, seeds: int | None) -> None:
    said = {"select": select, "sets": {"joint": ["x0", "latent"]}, "grids": grids}
    experiment = experiment_of(said if seeds is None else said | {"seeds": seeds})
    again = build_experiment(OmegaConf.create(experiment.to_yaml()), OmegaConf.create({}))
    assert again == experiment


def test_setting_plain_keys_is_fast_and_the_same_as_reading_anew() -> None:
    base = load_experiment("quickstart")
    changes = {
        "probe.step": "3",
        "probe.taps": "x0",
        "trainer.learning_rate": 1,
        "data.split.train": 0.6,
        "data.split.test": 0.3,
        "metrics.auc_threshold": 0.5,
        "evaluators": ["shapes_reward"],
        "probe.within_prompt": False,
    }
    content = OmegaConf.create(base.to_dict() | {"sweep": []})
    update = OmegaConf.create({})
    for key, value in (changes | {"probe.taps": ["x0"]}).items():
        OmegaConf.update(update, key, value, force_add=True)
    assert with_changes(base, changes) == build_experiment(content, update)
    started = time.thread_time()
    for seed in range(50):
        assert with_changes(base, {"trainer.seed": seed}).trainer.seed == seed
    assert time.thread_time() - started < 2
