"""What the prediction is used for: Diffusion Probe's three tasks, Probe-Select's choice of a seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from probe_lab.report.layout.material import Section
from probe_lab.report.layout.style import evaluator_label
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.report.papers.shown import (
    CAUTION,
    OF,
    Shown,
    candidates,
    labels,
    our_table,
    paper_table,
    picked,
    published,
)
from probe_lab.report.sections.paper import disputed

_DOWNSTREAM = ("clip_score", "image_reward", "aesthetic")
_SELECTIVE = ("image_reward", "hps_v2_1", "clip_score")
_HIGH = 80  # percentile


def table_prompt_optimization(shown: Shown) -> Section:
    """The published table; beside it what we have: the choice of a seed."""
    key = "dp_table_prompt_optimization"
    return Section(
        key,
        "Prompt optimisation (Diffusion Probe)",
        "",
        skipped=(
            "Prompt optimisation of ours: it has a language model rewrite prompts, which this project does not do. "
            "What stands beside the published table is the choice among seeds of one prompt by the same predictions.",
        ),
        tables=(_downstream(key, "prompt_optimization"), _seeds(shown, key)),
    )


def table_seed_selection(shown: Shown) -> Section:
    """Mean scores of a random seed and of the chosen one."""
    key = "dp_table_seed_selection"
    return Section(
        key,
        "Choosing the seed (Diffusion Probe)",
        "",
        tables=(_downstream(key, "seed_selection"), _seeds(shown, key)),
    )


def table_grpo(shown: Shown) -> Section:
    """How many high-quality images a choice by prediction leaves for training on."""
    key, count, variant = "dp_table_grpo", candidates(shown), shown.probe()
    rows = []
    for evaluator in shown.evaluators:
        found = picked(shown, variant, evaluator, count, _high)
        factor = found.chosen.estimate / found.random.estimate
        rows.append((evaluator_label(evaluator), found.random.estimate, found.chosen, factor))
    note = str(published()["diffusion_probe"]["notes"]["flow_grpo"])
    return Section(
        key,
        "High-quality samples for reinforcement learning (Diffusion Probe)",
        "",
        skipped=(
            "Reinforcement learning of ours: no generator is trained here. Beside the published factor stands the same "
            "question to the predictions alone.",
        ),
        tables=(
            paper_table(key, "Diffusion Probe, Flow-GRPO", CAUTION, ("training", "finding"), [("Flow-GRPO", note)]),
            our_table(
                key,
                f"{shown.model}, share of high-quality images",
                f"High quality: among the best {100 - _HIGH} % of all test images. Chosen: the seed with the highest "
                f"prediction of {count}, at step {variant.step} of {shown.steps}.",
                ("evaluator", "all images", "chosen", "factor"),
                rows,
            ),
        ),
    )


def table_selection(shown: Shown) -> Section:
    """Top 1 of 5 against the average seed: a row per evaluator that chooses, a column per evaluator that scores."""
    key, variant = "ps_table_selection", shown.probe()
    kept = published()["probe_select"]["notes"]["selection"]
    count = min(OF, candidates(shown))
    of = {
        (by, name): picked(shown, variant, by, count, of=name) for by in shown.evaluators for name in shown.evaluators
    }
    first = shown.evaluators[0]
    rows: list[tuple[Field, ...]] = [(shown.model, "baseline", *(of[first, name].random for name in shown.evaluators))]
    rows += [
        (shown.model, evaluator_label(by), *(of[by, name].chosen for name in shown.evaluators))
        for by in shown.evaluators
    ]
    rows.append((shown.model, "oracle of each column", *(of[name, name].best for name in shown.evaluators)))
    theirs = [
        (row["model"], _config(row["config"]), *(float(row[name]) for name in _SELECTIVE))
        for row in published()["probe_select"]["selective_generation"]
    ]
    return Section(
        key,
        "Selective generation, the best of five (Probe-Select)",
        "",
        tables=(
            paper_table(
                key, "Probe-Select", f"{disputed(kept)} {CAUTION}", ("model", "chosen by", *labels(_SELECTIVE)), theirs
            ),
            our_table(
                key,
                f"{shown.model}, one of {count} at step {variant.step} of {shown.steps}",
                "Rows: whose prediction chooses; baseline is the average seed. Columns: mean true score of the chosen "
                "image, exact over all subsets of the candidates.",
                ("model", "chosen by", *labels(shown.evaluators)),
                rows,
                digits=3,
            ),
        ),
    )


def table_fid(shown: Shown) -> Section:
    """The published FID; beside it our exact measure of how clean an image is."""
    key, variant = "ps_table_fid", shown.probe()
    count, by = min(OF, candidates(shown)), shown.evaluators[0]
    found = [(name, picked(shown, variant, by, count, of=name)) for name in _fidelity(shown)]
    theirs = [
        (model, value["baseline"], value["selected"]) for model, value in published()["probe_select"]["fid"].items()
    ]
    return Section(
        key,
        "Does choosing harm the images? (Probe-Select)",
        "",
        skipped=(
            "FID of ours: it compares with photographs through a network that knows photographs. Beside it stands what "
            "the chosen images score where nobody chose by that score: higher is better, where FID's lower is.",
        ),
        tables=(
            paper_table(key, "Probe-Select, FID", CAUTION, ("model", "baseline", "selected"), theirs),
            our_table(
                key,
                f"{shown.model}, chosen by {evaluator_label(by)}",
                f"One of {count} at step {variant.step} of {shown.steps}; mean true scores.",
                ("score", "baseline", "selected"),
                [(evaluator_label(name), pick.random, pick.chosen) for name, pick in found],
                digits=3,
            ),
        ),
    )


def _downstream(key: str, task: str) -> Table:
    rows = [row for row in published()["diffusion_probe"]["downstream"] if row["task"] == task]
    values = [(row["model"], row["method"], *(float(row[name]) for name in _DOWNSTREAM)) for row in rows]
    return paper_table(key, "Diffusion Probe", CAUTION, ("model", "method", *labels(_DOWNSTREAM)), values)


def _seeds(shown: Shown, key: str) -> Table:
    """Chosen by the first evaluator's prediction, scored by all."""
    by, count, variant = shown.evaluators[0], candidates(shown), shown.probe()
    found = [picked(shown, variant, by, count, of=name) for name in shown.evaluators]
    rows: list[tuple[Field, ...]] = [
        (shown.model, "random", *(pick.random for pick in found)),
        (shown.model, "probe", *(pick.chosen for pick in found)),
        (shown.model, "oracle of each column", *(pick.best for pick in found)),
    ]
    return our_table(
        key,
        f"{shown.model}, one of {count} seeds",
        f"The probe chooses by its prediction of {evaluator_label(by)} at step {variant.step} of {shown.steps}; mean "
        "true scores.",
        ("model", "method", *labels(shown.evaluators)),
        rows,
        digits=3,
    )


def _fidelity(shown: Shown) -> list[str]:
    """Evaluators of the picture alone, or all but the one that chooses, or that one if there is no other."""
    alone = [name for name in shown.evaluators if name.partition("@")[0] in ("shapes_fidelity", "aesthetic")]
    return alone or list(shown.evaluators[1:]) or list(shown.evaluators)


def _high(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (scores > np.percentile(scores, _HIGH)).astype(float)


def _config(name: str) -> str:
    return name if name == "baseline" else evaluator_label(name)
