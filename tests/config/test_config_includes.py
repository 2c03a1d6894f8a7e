"""Experiment files that include others: whose keys win, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_lab.config import Experiment, load_experiment
from probe_lab.config.includes import MOST_LEVELS, read_documents
from probe_lab.errors import ConfigError

BASE = """\
name: base
backbone: tiny-sd
prompts: {count: 40, exclude: ["shapes:0:10"]}
capture: {steps: [1, 3], taps: [x0, latent]}
probe: {step: 3, taps: "${capture.taps}", loss: mse}
sweep:
  sets: {early: [x0]}
  grids:
    - probe.step: [1, 3]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    (folder / "mine.yaml").write_text(text)
    return load_experiment(folder / "mine.yaml", list(overrides))


def test_own_keys_win_sections_are_joined_and_lists_replaced(folder: Path) -> None:
    mine = load(folder, "defaults: [base.yaml]\nprompts: {count: 8}\ncapture: {taps: [x0]}\nprobe: {loss: listwise}\n")
    assert (mine.prompts.count, mine.prompts.exclude) == (8, ["shapes:0:10"])
    assert (mine.capture.steps, mine.capture.taps) == ([1, 3], ["x0"])
    assert (mine.probe.step, mine.probe.loss) == (3, "listwise")
    assert mine.probe.taps == ["x0"]  # a reference of the included file, to a key of this one
    assert load(folder, "defaults: [base.yaml]\n", "probe.loss=pairwise").probe.loss == "pairwise"


def test_an_included_file_alone_is_the_same_experiment_under_another_name(folder: Path) -> None:
    mine, base = load(folder, "defaults: [base.yaml]\n"), load_experiment("base.yaml")
    assert (mine.name, base.name) == ("mine", "base")
    assert mine.to_dict() | {"name": "base"} == base.to_dict()
    assert load_experiment_of(mine, folder) == mine


def load_experiment_of(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment as a cell stores it, read back."""
    (folder / "config.yaml").write_text(experiment.to_yaml())
    return load_experiment(folder / "config.yaml", stored=True)


def test_a_sweep_is_laid_over_as_that_of_an_override(folder: Path) -> None:
    assert load(folder, "defaults: [base.yaml]\n").sweep == ({"probe.step": (1, 3)},)
    other = load(folder, "defaults: [base.yaml]\nsweep: {probe.loss: [mse]}\n")
    assert (other.sweep, other.sets) == (({"probe.loss": ("mse",)},), {"early": ("x0",)})
    assert load(folder, "defaults: [base.yaml]\nsweep: []\n").sweep == ()
    chosen = load(folder, "defaults: [base.yaml]\nsweep: {select: step == 1}\n")
    assert (chosen.sweep, chosen.only) == (({"probe.step": (1, 3)},), "step == 1")


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [("tiny-sd3", ("tiny-sd3", "", "")), ("{family: sd, path: here}", ("", "sd", "here")), ("{path: here}", None)],
)
def test_a_backbone_replaces_another_one(folder: Path, backbone: str, expected: tuple[str, str, str] | None) -> None:
    (folder / "base.yaml").write_text(BASE.replace("tiny-sd", "{family: sdxl, path: there}"))
    own = load(folder, f"defaults: [base.yaml]\nbackbone: {backbone}\n").backbone
    assert (own.name, own.family, own.path) == (expected or ("", "sdxl", "here"))


def test_later_files_win_and_one_that_several_include_is_read_once(folder: Path) -> None:
    (folder / "a.yaml").write_text("defaults: [base.yaml]\nseed: 1\nprobe: {loss: listwise}\n")
    (folder / "b.yaml").write_text("defaults: [base.yaml]\nseed: 2\n")
    mine = load(folder, "defaults: [a.yaml, b.yaml]\n")
    assert (mine.seed, mine.probe.loss) == (2, "listwise")
    assert [Path(document.origin).name for document in read_documents(folder / "mine.yaml")] == [
        "base.yaml",
        "a.yaml",
        "b.yaml",
        "mine.yaml",
    ]


def test_files_of_the_folder_experiments_include_each_other_and_no_others(folder: Path) -> None:
    paper = folder / "experiments" / "paper"
    paper.mkdir(parents=True)
    (folder / "experiments" / "base.yaml").write_text(BASE)
    (paper / "mine.yaml").write_text("defaults: [../base.yaml]\n")
    assert load_experiment("paper/mine").prompts.count == 40
    (paper / "mine.yaml").write_text("defaults: [../../base.yaml]\n")
    with pytest.raises(
        ConfigError, match=r"includes '../../base.yaml', which is outside of .*experiments: name a file"
    ):
        load_experiment("paper/mine")
    (paper / "link.yaml").symlink_to(folder / "base.yaml")
    (paper / "mine.yaml").write_text("defaults: [link.yaml]\n")
    with pytest.raises(ConfigError, match="outside of"):
        load_experiment("paper/mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "defaults: base.yaml\n",
            r"'defaults' in .*mine.yaml, line 1 is not valid: it is a list, so write \[base.yaml\]",
        ),
        ("defaults: [bse.yaml]\n", r"mine.yaml includes 'bse.yaml', which is no file: did you mean 'base.yaml'\?"),
        ("defaults: [.]\n", r"mine.yaml includes '.', which is no file"),
        ('defaults: ["a\\0b"]\n', r"which is no file"),
        (f"defaults: [{'a' * 300}.yaml]\n", r"which is no file"),
        ("defaults: [base.yaml, base.yaml]\n", r"names 'base.yaml' twice"),
        ("defaults: [../base.yaml]\n", r"'../base.yaml', which is outside of"),
        ("defaults: [/etc/hostname]\n", r"'/etc/hostname', which is outside of"),
        ("defaults: [mine.yaml]\n", r"mine.yaml → mine.yaml is a circle of includes: take 'mine.yaml' out of"),
        (
            "defaults: [a.yaml]\n",
            r"mine.yaml → a.yaml → b.yaml → a.yaml is a circle|a.yaml → b.yaml → a.yaml is a circle",
        ),
        ("defaults: [empty.yaml]\n", r"empty.yaml is empty"),
        ("defaults: [wrong.yaml]\n", r"unknown key 'probe.los' in wrong.yaml: did you mean 'loss'"),
        ("defaults: [range.yaml]\n", r"'probe.ema' is 2.0: .* \(range.yaml, line 2\)"),
        ("defaults: [typed.yaml]\n", r"'probe.width' in typed.yaml, line 1 is not valid"),
    ],
)
def test_what_cannot_be_included_is_one_sentence(folder: Path, text: str, message: str) -> None:
    (folder / "a.yaml").write_text("defaults: [b.yaml]\n")
    (folder / "b.yaml").write_text("defaults: [a.yaml]\n")
    (folder / "empty.yaml").write_text("")
    (folder / "wrong.yaml").write_text("backbone: tiny-sd\nprobe: {los: mse}\n")
    (folder / "range.yaml").write_text("backbone: tiny-sd\nprobe: {ema: 2}\n")
    (folder / "typed.yaml").write_text("probe: {width: wide}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder, text)
    assert "\n" not in str(caught.value)


def test_a_long_row_of_files_is_refused(folder: Path) -> None:
    for number in range(MOST_LEVELS + 1):
        (folder / f"{number}.yaml").write_text(f"defaults: [{number + 1}.yaml]\n")
    with pytest.raises(ConfigError, match=rf"more than {MOST_LEVELS} files that include each other"):
        load(folder, "defaults: [0.yaml]\n")


def test_overrides_and_stored_files_include_nothing(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match="includes a file in the overrides: name it in 'defaults' of an experiment file"
    ):
        load(folder, "backbone: tiny-sd\n", "defaults=[base.yaml]")
    (folder / "config.yaml").write_text("defaults: [base.yaml]\n")
    with pytest.raises(ConfigError, match="unknown key 'defaults'"):
        load_experiment(folder / "config.yaml", stored=True)
