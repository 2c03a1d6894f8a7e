"""Generation on the shipped backbone: what is cached, that batches do not matter, and that it resumes."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import interpreters
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, CacheWriter, verify
from probe_lab.capture import Capture
from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import CacheError, CaptureError, ConfigError, ScoreError
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation import fill, generation_worker, measured_plan
from probe_lab.generation import generate as generate_module
from probe_lab.generation.generate import generate, plan_generation
from probe_lab.generation.generation_worker import workers_of
from probe_lab.generation.measured_plan import Plan, plan_table
from probe_lab.generation.prompts import read_prompts, sample_table

SMALL = [
    "prompts.count=6",
    "prompts.seeds=3",
    "sampling.steps=4",
    "sampling.height=32",
    "sampling.width=32",
    "capture.steps=[2,3]",
    "cache.shard_size=9",
    "sampling.batch_size=9",
    "workers=1",
]


def experiment_in(folder: Path, *overrides: str) -> Experiment:
    return load_experiment("smoke", [f"cache.root={folder}", *SMALL, *overrides])


def run(experiment: Experiment) -> list[int]:
    reported: list[int] = []
    generate(experiment, lambda done, total: reported.append(done), lambda plan: None)
    return reported


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    experiment = experiment_in(tmp_path_factory.mktemp("caches"))
    run(experiment)
    return Cache(experiment.cache_folder)


def test_the_cache_holds_what_the_experiment_asks_for(cache: Cache) -> None:
    experiment = experiment_in(cache.folder.parent)
    assert verify(cache.folder) == []
    assert len(cache.samples) == 18
    assert list(cache.samples["shard"].unique()) == [0, 1]
    assert set(cache.keys()) == {f"{step}/{tap}" for step in (2, 3) for tap in experiment.capture.taps}
    assert cache.samples["seed"].is_unique
    text = cache.text("backbone")
    assert text["tokens"].shape[:2] == (6, 24)
    assert text["token_mask"].sum(1).tolist() == [
        len(prompt.split()) + 2 for prompt in read_prompts(experiment.prompts, experiment.seed)
    ]


def test_any_sample_can_be_generated_again_alone(cache: Cache) -> None:
    experiment = experiment_in(cache.folder.parent)
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    key = "2/up_blocks.1.attentions.0/attention"
    for sample in (0, 7, 17):
        row = cache.samples.iloc[sample]
        with Capture(pipe, ["up_blocks.1.attentions.0/attention"], [2]) as capture:
            image = pipe(
                row["prompt"],
                generator=torch.Generator().manual_seed(int(row["seed"])),
                num_inference_steps=4,
                guidance_scale=experiment.sampling.guidance,
                height=32,
                width=32,
            ).images[0]
        stored = np.asarray(Image.open(io.BytesIO(cache.image(sample))), np.int16)
        # One row alone runs through other matrix kernels: a rounding of the last bit may fall the other way.
        assert np.abs(stored - np.asarray(image, np.int16)).max() <= 1
        maps = cache.read(key, int(row["shard"]), slice(row["row"], row["row"] + 1)).float()
        (_, captured), *_ = capture.items()
        torch.testing.assert_close(maps, captured, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("batch_size", "prompts"), [(1, 2), (2, 2), (7, 6), (64, 6)])
def test_images_are_the_same_whatever_the_batch_size(
    cache: Cache, tmp_path: Path, batch_size: int, prompts: int
) -> None:
    experiment = experiment_in(tmp_path, f"sampling.batch_size={batch_size}", f"prompts.count={prompts}")
    run(experiment)
    other, images = Cache(experiment.cache_folder), prompts * 3
    assert len(other.samples) == images
    for sample in range(images):
        assert other.image(sample) == cache.image(sample)
    for key in cache.keys():
        assert torch.equal(other.read_all(key), cache.read_all(key)[:images])


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a cache: tensors, sidecars, images, texts, samples and manifest."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
@pytest.mark.parametrize("cores", [2, 4])  # forked, where no other test has left a thread, and spawned
def test_several_processes_fill_the_same_cache(cache: Cache, tmp_path: Path, cores: int) -> None:
    experiment = experiment_in(tmp_path, "workers=2")
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        assert run(experiment)[-1] == 18
    finally:
        torch.set_num_threads(before)
    assert verify(experiment.cache_folder) == []
    assert files_of(experiment.cache_folder) == files_of(cache.folder)


def test_after_a_killed_process_the_same_command_fills_the_same_cache(tmp_path: Path) -> None:
    # Two shards for each of two processes, and three batches in each shard.
    changes = ["prompts.count=4", "cache.shard_size=3", "sampling.batch_size=1"]
    changes += ["sampling.steps=2", "capture.steps=[2]"]
    experiment = experiment_in(tmp_path / "two", *changes, "workers=2")
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if done >= 2 and not killed:  # the first process waits here within a shard: the other one fills two
            until = time.monotonic() + 120
            while not list(experiment.cache_folder.glob("shards/*.json")) and time.monotonic() < until:
                time.sleep(0.01)
            child = multiprocessing.active_children()[0]
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    with pytest.raises(CaptureError, match=r"ended by signal 9 \(SIGKILL\); the same command continues"):
        generate(experiment, kill_one, lambda plan: None)
    assert killed
    assert multiprocessing.active_children() == []
    assert len(Cache(experiment.cache_folder).shards) < 4
    run(experiment)
    alone = experiment_in(tmp_path / "one", *changes)
    run(alone)
    assert verify(experiment.cache_folder) == []
    assert files_of(experiment.cache_folder) == files_of(alone.cache_folder)


def test_a_process_that_is_killed_before_it_has_a_shard_holds_nobody_up(cache: Cache, tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "workers=2")
    killed: list[int | None] = []

    def announce(plan: Plan) -> None:
        (child,) = multiprocessing.active_children()
        child.kill()
        killed.append(child.pid)

    generate(experiment, lambda done, total: None, announce)
    assert killed
    assert multiprocessing.active_children() == []
    assert files_of(experiment.cache_folder) == files_of(cache.folder)


_PLANS = """
import multiprocessing, sys, time, torch
from probe_lab.generation.generate import generate
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.config import load_experiment
from probe_lab.progress import progress

def announce(plan):
    print(*(type(each).__name__ for each in multiprocessing.active_children()), flush=True)
    time.sleep(600)

experiment = load_experiment("smoke", sys.argv[2:])
load_pipeline(experiment.backbone, experiment.sampling)  # by an earlier generation
torch.set_num_threads(int(sys.argv[1]))
with progress("generate", "images") as update:
    generate(experiment, update, announce)
"""


@pytest.mark.parametrize(
    ("cores", "kind", "sent", "code"),
    [
        (2, "ForkProcess", signal.SIGKILL, -signal.SIGKILL),
        (4, "SpawnProcess", signal.SIGKILL, -signal.SIGKILL),
        (2, "ForkProcess", signal.SIGTERM, -signal.SIGINT),  # as after Ctrl-C
    ],
)
def test_a_generation_that_ends_while_it_plans_leaves_no_process(
    tmp_path: Path, cores: int, kind: str, sent: signal.Signals, code: int
) -> None:
    command = ["-c", _PLANS, str(cores), f"cache.root={tmp_path}", *SMALL, "workers=2"]
    terminal = {**os.environ, "FORCE_COLOR": "1"}  # where the display of progress has a thread
    with interpreters.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=terminal) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{kind}\n"
        process.send_signal(sent)
        told = process.communicate(timeout=60)[1]  # it returns when no process holds the other ends any more
    assert process.returncode == code
    assert told.count("Traceback") <= (sent == signal.SIGTERM)  # what the first process says, not a further one


def test_every_card_gets_one_process_and_the_cpu_as_many_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def working(device: str, workers: int, shards: int = 9) -> int:
        return workers_of(experiment_in(Path("unused"), f"sampling.device={device}", f"workers={workers}"), shards)

    assert working("cpu", 3) == 3
    assert working("cpu", 3, shards=2) == 2
    assert working("cuda:1", 3) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert working("cuda", 8) == 4
    assert working("cuda", 2) == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert working("cuda", 2) == 1  # and loading says that it is not there


def test_without_images_the_tensors_are_the_same(cache: Cache, tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "capture.images=false")
    announced: list[Plan] = []
    reported: list[int] = []
    generate(experiment, lambda done, total: reported.append(done), announced.append)
    found = files_of(experiment.cache_folder)
    assert verify(experiment.cache_folder) == []
    assert {name for name in found if name.startswith("images")} == set()
    for name, content in files_of(cache.folder).items():
        if name.endswith(".safetensors"):
            assert found[name] == content
    assert announced[0].image_bytes == 0
    assert reported == [0, 9, 18]
    assert run(experiment) == [18]
    with pytest.raises(ScoreError, match=r"holds no images .*import scores"):
        score_cache(experiment.cache_folder, ["shapes_reward"])
    with pytest.raises(CacheError, match=r"capture\.images \(cache: false, experiment: default\)"):
        run(experiment_in(tmp_path))


def test_a_failing_process_stops_the_others_with_its_own_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a guidance, which no file may ask for, makes arrays overflow the cache's float16, which the writer refuses.
    # The plan looks at shapes and images, which are finite.
    experiment = experiment_in(tmp_path, "workers=2", "cache.dtype=float16")
    experiment = replace(experiment, sampling=replace(experiment.sampling, guidance=1e10))
    with pytest.raises(CacheError, match=r"x0|latent|attention|activation"):
        run(experiment)
    assert Cache(experiment.cache_folder).shards == []


def test_images_do_not_depend_on_how_many_prompts_there_are(cache: Cache, tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "prompts.count=3")
    run(experiment)
    fewer = Cache(experiment.cache_folder)
    assert [fewer.image(sample) for sample in range(9)] == [cache.image(sample) for sample in range(9)]


def test_an_interrupted_generation_continues_with_the_missing_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Cache
) -> None:
    experiment = experiment_in(tmp_path)
    original = CacheWriter.write_shard

    def interrupt(self, shard, *args, **kwargs):
        if shard == 1:
            raise KeyboardInterrupt
        return original(self, shard, *args, **kwargs)

    monkeypatch.setattr(CacheWriter, "write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(experiment)
    monkeypatch.undo()
    first = (experiment.cache_folder / "shards" / "00000.safetensors").stat().st_mtime_ns
    assert run(experiment)[0] == 9
    assert (experiment.cache_folder / "shards" / "00000.safetensors").stat().st_mtime_ns == first
    again = Cache(experiment.cache_folder)
    assert [again.image(sample) for sample in range(18)] == [cache.image(sample) for sample in range(18)]


def test_a_finished_generation_loads_no_model(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a model was loaded")

    for module in (generate_module, generation_worker):
        monkeypatch.setattr(module, "load_pipeline", refuse)
    assert run(experiment_in(cache.folder.parent)) == [18]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        (["sampling.guidance=5.0"], ["sampling.guidance (cache: 2.0, experiment: 5.0)"]),
        (["sampling.steps=5"], ["sampling.steps (cache: 4, experiment: 5)"]),
        (["sampling.scheduler=euler"], ["sampling.scheduler (cache: ddim, experiment: euler)"]),
        (["sampling.height=96"], ["sampling.height (cache: 32, experiment: 96)"]),
        (["sampling.dtype=bfloat16"], ["sampling.dtype (cache: float32, experiment: bfloat16)"]),
        (["sampling.vae_tiling=true"], ["sampling.vae_tiling (cache: default, experiment: true)"]),
        (["sampling.max_sequence_length=16"], ["sampling.max_sequence_length (cache: default, experiment: 16)"]),
        (["capture.steps=[2]"], ["capture.steps (cache: [2, 3], experiment: [2])"]),
        (["capture.images=false"], ["capture.images (cache: default, experiment: false)"]),
        (["cache.dtype=float32"], ["cache.dtype (cache: float16, experiment: float32)"]),
        (["cache.shard_size=6"], ["cache.shard_size (cache: 9, experiment: 6)"]),
        (["prompts.seeds=2"], ["prompts.seeds (cache: 3, experiment: 2)", "the number of samples (cache: 18"]),
        (["seed=1"], ["the sha256 of all prompts (cache: ", "seed (cache: 0, experiment: 1)"]),
        (
            ["sampling.guidance=5.0", "sampling.width=96"],
            ["sampling.guidance (cache: 2.0, experiment: 5.0), sampling.width (cache: 32, experiment: 96): give"],
        ),
    ],
)
def test_another_experiment_is_refused_by_the_keys_that_differ(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, changes: list[str], keys: list[str]
) -> None:
    monkeypatch.setattr(generation_worker, "load_pipeline", None)  # it is told before a model is loaded
    with pytest.raises(CacheError) as caught:
        run(experiment_in(cache.folder.parent, *changes))
    for key in keys:
        assert key in str(caught.value)


def test_another_tap_is_refused_by_its_name(cache: Cache) -> None:
    with pytest.raises(
        CacheError, match=r"capture\.taps up_blocks\.1/activation \(cache: \[.*\], experiment: absent\)"
    ):
        run(experiment_in(cache.folder.parent, "capture.taps=[up_blocks.1.attentions.0/attention,latent,x0]"))


def test_settings_that_the_pipeline_refuses_are_one_sentence(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "prompts.source=file", f"prompts.path={tmp_path / 'p.txt'}")
    (tmp_path / "p.txt").write_text("a red circle\n")
    broken = replace(experiment, sampling=replace(experiment.sampling, height=60))  # past the check of the file
    with pytest.raises(CaptureError, match=r"StableDiffusionPipeline does not run with these sampling settings \(.*60"):
        run(broken)
    assert not experiment.cache_folder.exists()


def test_the_plan_counts_bytes_as_they_come_out(cache: Cache) -> None:
    experiment = experiment_in(cache.folder.parent)
    plan = plan_generation(experiment)
    assert plan.images == 18
    assert plan.shapes == cache.manifest.taps
    stored = sum(tensor.numel() * 2 for key in cache.keys() if (tensor := cache.read_all(key)) is not None)
    assert len(plan.steps) * sum(map(plan.tap_bytes, plan.shapes)) == stored
    assert plan.seconds > 0
    assert plan.hours == pytest.approx(plan.seconds * plan.units / 3600)
    assert plan_table(plan).row_count == len(plan.shapes) + 5


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The samples of every batch that is drawn in this process."""
    batches: list[list[int]] = []
    draw = fill.draw

    def counted(experiment: Experiment, pipe: object, capture: Capture, samples: pd.DataFrame) -> fill.DrawnBatch:
        batches.append(samples["sample_id"].tolist())
        return draw(experiment, pipe, capture, samples)  # type: ignore[arg-type]

    for module in (fill, measured_plan):
        monkeypatch.setattr(module, "draw", counted)
    return batches


@pytest.mark.parametrize("images", [True, False])
def test_one_worker_draws_no_batch_twice(tmp_path: Path, drawn: list[list[int]], images: bool) -> None:
    """Two shards of nine images, in batches of six and three."""
    experiment = experiment_in(tmp_path, "sampling.batch_size=6", f"capture.images={str(images).lower()}")
    run(experiment)
    assert drawn == [[*range(6)], [6, 7, 8], [*range(9, 15)], [15, 16, 17]]
    before = files_of(experiment.cache_folder)
    for shard, batches in enumerate((drawn[:2], drawn[2:4])):
        drawn.clear()
        (experiment.cache_folder / "shards" / f"{shard:05d}.json").unlink()
        run(experiment)
        assert drawn == batches  # also where the first shard is there
        assert files_of(experiment.cache_folder) == before


def test_what_nobody_would_store_is_measured_on_few_rows(tmp_path: Path, drawn: list[list[int]]) -> None:
    many = ["prompts.seeds=8", "sampling.batch_size=40", "cache.shard_size=48"]
    plan_generation(experiment_in(tmp_path, *many))
    assert drawn == [[*range(16)]]
    run(experiment_in(tmp_path, *many, "workers=2", "cache.shard_size=24"))
    assert drawn[1] == [*range(16)]


def test_a_plan_counts_the_rows_that_fill_batches_up(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "sampling.batch_size=6")
    samples = sample_table(experiment)
    assert measured_plan.rows_of_calls(experiment.sampling, samples) == 4 * 16
    on_a_card = replace(experiment.sampling, device="cuda")
    assert measured_plan.rows_of_calls(on_a_card, samples) == 18
    whole = replace(experiment.sampling, batch_size=32)
    assert measured_plan.rows_of_calls(whole, samples) == 2 * 16


def test_hours_are_of_all_that_runs_side_by_side() -> None:
    plan = Plan(10, (1,), {"x0": (1, 1, 1)}, 2, 0, 1800.0, units=4, hardware="GPU")
    assert plan.hours == 2.0
    assert plan.total_bytes == 20
    rows = [list(column.cells) for column in plan_table(plan).columns]
    assert rows[0][-1] == "GPU-hours, about"
    assert rows[3][-1] == "2.00"
    assert rows[3][rows[0].index("images (PNG)")] == "none"


def test_a_full_disk_is_told_before_the_start(tmp_path: Path) -> None:
    plan = Plan(10**9, (1,), {"x0": (8, 16, 16)}, 2, 1000, 1.0)
    with pytest.raises(CacheError, match="disk"):
        plan.require_space(tmp_path)


def test_unknown_taps_and_backbones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"did you mean 'up_blocks\.1\.attentions\.1/attention'"):
        run(experiment_in(tmp_path, "capture.taps=[up_blocks.1.attentions.9/attention]"))
    with pytest.raises(CaptureError, match="no built-in backbone 'tiny-ds': did you mean 'tiny-sd'"):
        run(experiment_in(tmp_path, "backbone=tiny-ds"))
    with pytest.raises(CaptureError, match="no model family 'sdd'"):
        run(experiment_in(tmp_path, "backbone={family: sdd, path: nowhere}"))
    with pytest.raises(CaptureError, match=r"no pipeline can be loaded from .*there is no such folder"):
        run(experiment_in(tmp_path, f"backbone={{family: sd, path: {tmp_path}/nowhere}}"))
    assert not experiment_in(tmp_path).cache_folder.exists()


def test_prompts_from_a_file_are_distinct_and_limited(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\na blue square\na red circle\na green cross\n")
    overrides = ["prompts.source=file", f"prompts.path={path}"]
    experiment = experiment_in(tmp_path, *overrides, "prompts.count=2")
    assert read_prompts(experiment.prompts, 0) == ["a red circle", "a blue square"]
    table = sample_table(experiment)
    assert table["sample_id"].tolist() == list(range(6))
    assert table["prompt_id"].tolist() == [0, 0, 0, 1, 1, 1]
    path.write_text("\n \n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        read_prompts(experiment.prompts, 0)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(experiment.prompts, 0)
