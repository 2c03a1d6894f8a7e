"""One probe of several steps, the head that reads the prompt, and the other parts of Probe-Select's released form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from probe_lab.cache import Cache
from probe_lab.config import CacheConfig, Experiment, with_changes
from probe_lab.data import load_resident
from probe_lab.errors import ConfigError, ProbeError, SweepError
from probe_lab.metrics import within_prompt_estimate
from probe_lab.probes import Inputs, Probe, ProbeSpec, load_probe, save_probe
from probe_lab.sweep import cells
from probe_lab.training.fit_cell import train_cell
from probe_lab.training.flat_weights import FlatWeights
from probe_lab.training.lightning_trainer import module_of
from probe_lab.training.probe_data import data_of

ProbeOf = Callable[..., Experiment]
RELEASED: dict[str, Any] = {
    "steps": [2, 5],
    "loss": "listwise+infonce+pearson",
    "within_prompt": False,
    "text": "none",
    "head": "text",
    "temperature": 1.0,
    "margin": 0.1,
    "correlation": 10.0,
    "nce_temperature_ratio": 10.0,
    "nce_negatives": "all",
    "ema": 0.9,
    "ema_warmup": False,
}


@pytest.fixture
def released(experiment: Experiment, probe_of: ProbeOf, stepped: Cache) -> Experiment:
    cache = CacheConfig(root=str(stepped.folder.parent), name=stepped.folder.name)
    trainer = replace(experiment.trainer, max_epochs=4)
    return replace(probe_of(experiment, **RELEASED), cache=cache, trainer=trainer)


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet")


def test_one_probe_is_evaluated_at_each_of_its_steps_whoever_trains_it(
    released: Experiment, probe_of: ProbeOf, stepped: Cache, runs: Path
) -> None:
    """By Lightning at one step and by the loop of a sweep at the other: the same weights."""
    shared = load_resident(stepped, [f"{step}/{tap}" for step in (2, 5) for tap in stepped.manifest.taps])
    train_cell(released, stepped, runs / "5")
    train_cell(probe_of(released, step=2), stepped, runs / "2", with_trainer=False, resident=shared)
    late, early = load_probe(runs / "5"), load_probe(runs / "2")
    assert (late.spec.steps, late.spec.step, early.spec.step) == ((2, 5), 5, 2)
    for (name, mine), theirs in zip(late.state_dict().items(), early.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5, msg=name)
    first, second = (json.loads((runs / name / "metrics.json").read_text()) for name in ("5", "2"))
    assert first["history"][-1] == pytest.approx(second["history"][-1], abs=1e-5)
    for name, step in (("5", 5), ("2", 2)):
        data = data_of(probe_of(released, step=step), stepped)
        again = [late.predict(Inputs.of(batch)) for batch in data.evaluation_dataloader("test")]
        table = predictions(runs / name)
        rows = table[table["split"] == "test"]
        np.testing.assert_allclose(torch.cat(again)[:, 0], rows["prediction"], atol=1e-4)
    assert not np.allclose(predictions(runs / "5")["prediction"], predictions(runs / "2")["prediction"], atol=1e-2)


def test_the_epoch_is_chosen_by_the_mean_over_all_steps(released: Experiment, stepped: Cache, runs: Path) -> None:
    train_cell(released, stepped, runs / "cell")
    probe, found = load_probe(runs / "cell"), []
    for step in (2, 5):
        data = data_of(replace(released, probe=replace(released.probe, step=step)), stepped)
        batches = list(data.evaluation_dataloader("val"))
        values = torch.cat([probe.predict(Inputs.of(batch))[:, 0] for batch in batches])
        target, group = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("targets", "group"))
        found.append(within_prompt_estimate(values, target[:, 0], group, "srcc_within"))
    history = json.loads((runs / "cell" / "metrics.json").read_text())["history"]
    assert np.mean(found) == pytest.approx(max(epoch["val_srcc_within"] for epoch in history), abs=1e-4)


def test_the_released_loss_is_the_sum_of_its_parts(released: Experiment, stepped: Cache) -> None:
    """Against a loop over pairs, at epoch 1 of 4: τ 0.75, α 0.075, τ of InfoNCE 0.1 + 0.9 / 4."""
    spec = ProbeSpec(
        kind="cnn",
        taps={"mid/activation": (6, 8, 8)},
        evaluators=("good",),
        step=5,
        total_steps=25,
        text_dim=12,
        head="text",
        aligned=True,
        width=8,
        embedding=8,
        steps=(2, 5),
        dropout=0.0,
    )
    module = module_of(Probe(spec), replace(released, probe=replace(released.probe, taps=["mid/activation"])))
    module.history.append({"epoch": 0, "train_loss": 0.0, "val_srcc_within": None, "val_selection_gain": None})
    module.draw_shift = lambda: torch.zeros(2, dtype=torch.int64)  # type: ignore[method-assign]
    data = data_of(replace(released, probe=replace(released.probe, taps=["mid/activation"])), stepped)
    batch = next(iter(data.train_dataloader()))
    loss = float(module.training_step(batch, 0))

    output = module.probe(Inputs.of(batch))
    assert output.text is not None
    yhat, y = output.prediction[:, 0].detach().double(), module.probe.standardised(batch.targets)[:, 0].double()
    listwise = 0.0
    for i in range(len(y)):
        worse = [float(yhat[j]) for j in range(len(y)) if y[j] + 0.075 < y[i]]
        listwise += np.log(np.exp(np.array([float(yhat[i]), *worse]) / 0.75).sum()) - float(yhat[i]) / 0.75
    pearson = 1 - np.corrcoef(yhat, y)[0, 1]
    similar = F.cosine_similarity(output.embedding[:, None], output.text[None], dim=2).detach() / (0.1 + 0.9 / 4)
    nce = float(F.cross_entropy(similar, torch.arange(len(y))))
    assert loss == pytest.approx(listwise / len(y) + 10 * pearson + 10 * nce, rel=1e-4)


def test_the_head_reads_the_prompt_beside_the_image() -> None:
    spec = ProbeSpec("cnn", {"x0": (4, 8, 8)}, ("a", "b"), 5, 25, text_dim=12, head="text", width=8, embedding=8)
    probe = Probe(spec).eval()
    inputs = Inputs({"x0": torch.randn(3, 4, 8, 8)}, torch.full((3,), 5), torch.tensor([0, 1, 1]), torch.randn(2, 12))
    output = probe(inputs)
    assert probe.prompt is not None
    u, e = probe.encoder(inputs), probe.prompt(inputs.text)[inputs.prompt]
    torch.testing.assert_close((output.embedding, output.text), (u, e))
    torch.testing.assert_close(output.prediction, probe.head.layers(torch.cat([u, e, u * e, (u - e).abs()], dim=1)))
    assert probe.align_embedding is None
    torch.testing.assert_close(probe.alignment(output, inputs), (u, e))
    torch.testing.assert_close(
        probe.predict(inputs)[1:2],
        probe.predict(
            replace(
                inputs, features={"x0": inputs.features["x0"][1:2]}, step=inputs.step[1:2], prompt=inputs.prompt[1:2]
            )
        ),
        atol=1e-5,
        rtol=1e-5,
    )
    with pytest.raises(ProbeError, match=r"pass Inputs\.text"):
        probe.predict(replace(inputs, text=None))
    with pytest.raises(ProbeError, match=r"probe\.head=plain"):
        replace(spec, text_dim=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": [2, 2]}, "a list of different steps"),
        ({"steps": [2, 26]}, "has the step 26 of 25"),
        ({"steps": [2, 4]}, r"the step 5, which is none of its steps \[2, 4\]"),
        ({"steps": "2"}, "a list of different steps"),
        ({"head": "tall"}, "one of plain, text"),
    ],
)
def test_a_description_of_other_steps_or_heads_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    spec = ProbeSpec("cnn", {"x0": (4, 8, 8)}, ("a",), 5, 25, width=8, embedding=8, steps=(2, 5))
    save_probe(tmp_path, Probe(spec))
    assert load_probe(tmp_path).spec == spec
    content = json.loads((tmp_path / "probe.json").read_text())
    (tmp_path / "probe.json").write_text(json.dumps(content | {"spec": content["spec"] | changes}))
    with pytest.raises(ProbeError, match=words):
        load_probe(tmp_path)


@pytest.mark.parametrize(("warmup", "decays"), [(True, [0.0, 2 / 11, 3 / 12]), (False, [0.0, 0.9, 0.9])])
def test_the_decay_of_the_average_is_constant_without_a_warm_up(
    experiment: Experiment, probe_of: ProbeOf, warmup: bool, decays: list[float]
) -> None:
    spec = ProbeSpec("cnn", {"x0": (4, 8, 8)}, ("a",), 5, 25, width=8, embedding=8)
    module = module_of(Probe(spec), probe_of(experiment, ema=0.9, ema_warmup=warmup))
    module.optimizers_for(4)
    weights, average = module._weights, module._average
    assert isinstance(weights, FlatWeights)
    assert isinstance(average, FlatWeights)
    expected = average.vectors.detach().clone()
    for step, decay in enumerate(decays):
        with torch.no_grad():
            weights.vectors.fill_(step + 1.0)
        module.update_average()
        expected = decay * expected + (1 - decay) * (step + 1.0)
        torch.testing.assert_close(average.vectors.detach(), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probe.steps": [1, 3]}, r"'probe\.steps' is \[1, 3\] and 'probe\.step' 5"),
        ({"probe.steps": [5, 5]}, "names .5. twice"),
        ({"probe.steps": [5, 99]}, "names step 99"),
        ({"probe.steps": [1, 5], "probe.scalars": ["preview:good"]}, "reads no scalars"),
        ({"probe.nce_temperature_ratio": 0.0}, "must be greater than 0"),
        ({"probe.correlation": -1.0}, "must not be negative"),
        ({"probe.head": "tall"}, "head"),
    ],
)
def test_impossible_values_are_refused(experiment: Experiment, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_changes(experiment, changes)


def test_cells_of_several_steps(experiment: Experiment) -> None:
    """They share their arrays; order says nothing, one step is no several, and a model that reads none has none."""
    grids = [
        {"probe.step": (1, 5), "probe.steps": ([1, 5], [5, 1])},
        {"probe.step": (5,), "probe.steps": ([5], [])},
        {"probe.model": ("linear", "prompt_only"), "probe.steps": ([5, 1],), "probe.head": ("text",)},
    ]
    experiment = replace(experiment, sweep=tuple(grids))
    found = cells(experiment)
    shown = [(c.experiment.probe.model, c.experiment.probe.step, c.experiment.probe.steps) for c in found]
    assert shown == [
        ("cnn", 1, [1, 5]), ("cnn", 5, [1, 5]), ("cnn", 5, []), ("linear", 5, []), ("prompt_only", 5, [])
    ]  # fmt: skip
    assert found[0].arrays == found[1].arrays
    assert len(found[0].arrays) == 2 * len(experiment.probe.taps)
    assert {c.experiment.probe.head for c in found} == {"plain"}
    with pytest.raises(ConfigError, match=r"only cnn, noisy_latent, shuffled_labels are trained on several steps"):
        cells(replace(experiment, sweep=(), probe=replace(experiment.probe, model="linear", steps=[1, 5])))
    with pytest.raises((ConfigError, SweepError), match=r"'probe\.step' 3"):
        cells(replace(experiment, sweep=({"probe.step": (3,), "probe.steps": ([1, 5],)},)))
