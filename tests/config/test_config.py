from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.config import EvaluatorModel, Experiment, known_keys, load_experiment, with_changes
from probe_lab.errors import ConfigError
from probe_lab.probes.kinds import reads_text

BASE = "backbone: tiny-sd\n"


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str) -> Path:
        path = tmp_path / "trial.yaml"
        path.write_text(text)
        return path

    return write_file


def test_a_file_states_only_what_differs(write) -> None:
    experiment = load_experiment(write(BASE + "prompts: {count: 7}\n"), ["sampling.steps=30", "probe.step=30"])
    assert (experiment.name, experiment.prompts.count, experiment.prompts.seeds) == ("trial", 7, 8)
    assert (experiment.sampling.steps, experiment.probe.step) == (30, 30)
    assert experiment.backbone.label == "tiny-sd"
    assert experiment.cache_folder == Path("data_cache/trial")
    assert experiment.probe_evaluators == ["shapes_reward"]


def test_a_sweep_of_the_overrides_replaces_that_of_the_file(write) -> None:
    for text in ("sweep: {probe.step: [1, 2]}\n", "sweep: [{probe.step: [1, 2]}]\n"):
        assert load_experiment(write(BASE + text), ["sweep={probe.loss: [mse]}"]).sweep == ({"probe.loss": ("mse",)},)
        assert load_experiment(write(BASE + text), ["sweep=[]"]).sweep == ()


def test_overrides_reach_into_the_entries_of_a_mapping(write) -> None:
    text = BASE + "scoring: {models: {clip_score: {architecture: ViT-B-32, checkpoint: a}}}\n"
    keys = ["scoring.models.clip_score.checkpoint=/x", "scoring.models.clip_score@large.checkpoint=b/c"]
    models = load_experiment(write(text), keys).scoring.models
    assert models["clip_score"] == EvaluatorModel(checkpoint="/x", architecture="ViT-B-32")
    assert models["clip_score@large"] == EvaluatorModel(checkpoint="b/c")


@pytest.mark.parametrize(
    ("changes", "reads"),
    [
        ({"probe.text": "tokens"}, True),
        ({"probe.text": "none"}, False),
        ({"probe.text": "none", "probe.loss": "listwise+infonce"}, True),
        ({"probe.model": "noisy_latent"}, True),
        ({"probe.model": "prompt_only"}, True),
        ({"probe.model": "linear"}, False),
        ({"probe.model": "x0_preview"}, False),
    ],
)
def test_which_probes_read_text(write, changes: dict[str, str], reads: bool) -> None:
    assert reads_text(with_changes(load_experiment(write(BASE)), changes).probe) is reads


def test_nothing_behind_the_equals_sign_is_the_empty_string(write) -> None:
    assert load_experiment(write(BASE), ["tracking.uri="]).tracking.uri == ""


def test_yaml_round_trip(write, tmp_path: Path) -> None:
    text = BASE + "sweep:\n- probe.step: [1, 5]\n  probe.taps: [x0, [x0, latent]]\n- probe.loss: [mse]\n"
    experiment = load_experiment(write(text), ["data.split.train=0.5", "data.split.test=0.4"])
    again = tmp_path / "again.yaml"
    again.write_text(experiment.to_yaml())
    assert load_experiment(again) == experiment
    assert experiment.sweep == (
        {"probe.step": (1, 5), "probe.taps": ("x0", ["x0", "latent"])},
        {"probe.loss": ("mse",)},
    )


def test_with_changes_sets_dotted_keys_and_drops_the_sweep(write) -> None:
    experiment = load_experiment(write(BASE + "sweep: {probe.step: [1]}\n"))
    cell = with_changes(experiment, {"probe.step": 3, "probe.taps": "x0", "trainer.seed": 2})
    assert (cell.probe.step, cell.probe.taps, cell.trainer.seed, cell.sweep) == (3, ["x0"], 2, ())
    assert with_changes(experiment, {"probe.taps": ["x0", "latent"]}).probe.taps == ["x0", "latent"]
    with pytest.raises(ConfigError, match=r"step 26: steps are 1 to 25"):
        with_changes(experiment, {"probe.step": 26})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prob.step=3"], r"unknown key 'prob' in the overrides: did you mean 'probe'\?"),
        (["probe.stp=3"], r"unknown key 'probe.stp' in the overrides: did you mean 'step'\?"),
        (["probe.step=five"], r"'probe.step' .* not valid: .*five"),
        (["probe=3"], r"'probe' in the overrides is a section"),
        (["probe.step=26"], r"'probe.step' names step 26: steps are 1 to 25"),
        (["capture.steps=[0]"], r"'capture.steps' names step 0"),
        (["prompts.count=0"], r"'prompts.count' is 0: it must be greater than 0"),
        (["probe.ema=1.0"], r"'probe.ema' is 1.0"),
        (["sampling.guidance=-1"], r"'sampling.guidance' is -1.0: it must not be negative"),
        (["probe.loss=listwize"], r"did you mean 'listwise'"),
        (["probe.model=cnm"], r"'probe.model' .* not valid"),
        (["evaluators=[]"], r"'evaluators' is empty"),
        (["probe.evaluators=[shapes_rewart]"], r"did you mean 'shapes_reward'"),
        (["data.split.train=0.9"], r"not 1"),
        (['backbone={name: ""}'], r"'backbone' is empty"),
        (["prompts.source=file"], r"'prompts.path' is empty"),
        (["scoring.models.clip_score.chekpoint=x"], r"unknown key 'scoring.models.clip_score.chek.* 'checkpoint'"),
        (["scoring.models.clip_score=x"], r"'scoring.models.clip_score' in the overrides is a section"),
        (["scoring.models=x"], r"'scoring.models' in the overrides is a section"),
        (["sweep={probe.stepz: [1]}"], r"unknown key 'probe.stepz' in sweep: did you mean 'probe.step"),
        (["sweep={probe.step: 1}"], r"write a list with at least one value"),
        (["sweep={probe.step: []}"], r"write a list with at least one value"),
    ],
)
def test_what_is_wrong_is_refused_by_name(write, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(write(BASE), overrides)
    assert "\n" not in str(caught.value)


def test_a_missing_experiment_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no experiment 'quickstrat': did you mean 'quickstart'\?"):
        load_experiment("quickstrat")


def test_broken_yaml_is_one_sentence(write) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_experiment(write("probe: [1,\n"))
    assert "\n" not in str(caught.value)


def test_known_keys_reach_every_leaf() -> None:
    keys = known_keys()
    assert {"seed", "probe", "probe.taps", "data.split.train", "backbone.path", "sweep"} <= keys
    assert "probe.taps.x" not in keys


@pytest.fixture(scope="module")
def quickstart() -> Experiment:
    return load_experiment("quickstart")


@given(
    count=st.integers(1, 10**6),
    rate=st.floats(1e-6, 1e3, allow_nan=False),
    loss=st.sampled_from(["mse", "listwise", "listwise+infonce"]),
    taps=st.lists(st.sampled_from(["x0", "latent", "mid_block/activation"]), unique=True),
)
def test_any_valid_values_survive_the_round_trip(
    quickstart: Experiment, count: int, rate: float, loss: str, taps: list[str]
) -> None:
    changes = {"prompts.count": count, "trainer.learning_rate": rate, "probe.loss": loss, "probe.taps": taps}
    changed = with_changes(quickstart, changes)
    assert changed.prompts.count == count
    assert changed.trainer.learning_rate == rate
    assert (changed.probe.loss, changed.probe.taps) == (loss, taps)
    assert with_changes(changed, {}) == changed
