"""Sections of an experiment that use probes: selection, trade-off, report and tracking; and where work runs."""

from __future__ import annotations

from dataclasses import dataclass

from probe_lab.config.declare import SHARE, key, positive, up_to


@dataclass(frozen=True)
class Select:
    """How `probe-lab select` spends denoiser calls. Candidates are chosen where the probe was trained, unless a
    schedule or a budget says otherwise."""

    candidates: int = key(5, "Images that start for every prompt.", positive(10**5))
    keep: int = key(1, "Images that are finished for every prompt.", positive(10**5), allowed="1 to select.candidates")
    schedule: list[dict[str, int]] = key([], "Cuts. `{step: 2, keep: 6}` each.")
    budget: int = key(0, "Denoiser calls per prompt, for which the schedule is found. 0: none.", up_to(10**9))
    by: str = key(
        "",
        "What chooses. An evaluator, weights of several (`a=0.7,b=0.3`) or `pareto`; empty: the first evaluator that "
        "the probe predicts.",
    )


@dataclass(frozen=True)
class TradeoffConfig:
    """What `probe-lab tradeoff` measures."""

    prompts: int = key(100, "Prompts of the test split to measure on, the first ones.", positive(10**8))
    candidates: list[int] = key(
        [2, 3, 5, 8, 12, 20, 30, 50], "Numbers of candidates to compare.", up_to(10**5), allowed="2 to 100,000 each"
    )
    fewer_steps: list[int] = key(
        [5, 7, 10, 15],
        "Sampling steps of the rival that finishes all candidates in fewer, and of plans. None, or 0, leaves it out.",
        up_to(10**5),
    )
    budgets: list[int] = key(
        [50, 75, 100, 120, 150, 200, 300],
        "Denoiser calls for which plans are made, of steps, candidates and who chooses among them. Empty: none.",
        positive(10**9),
    )
    planned_prompts: int = key(
        30, "Validation prompts on which plans are chosen, with as many seeds as there are candidates.", positive(10**8)
    )
    thin: float = key(
        0.0,
        "Share of the candidates that the cascade's probe leaves for the lookahead, at least. 0 chooses it on as many "
        "validation prompts.",
        SHARE,
    )
    timed: list[int] = key(
        [2, 5, 8, 20, 50],
        "Numbers of `candidates` whose time and operations are measured too, beside those of all plans.",
        up_to(10**5),
    )
    timed_prompts: int = key(8, "Prompts whose wall-clock is measured.", positive(10**8))
    rounds: int = key(3, "Rounds of the wall-clock, in which all ways take turns.", up_to(10_000))


@dataclass(frozen=True)
class Engine:
    """Where sweep, generate and score run."""

    name: str = key("local", "What runs the work. Processes of this machine, or `ray`, which also spans machines.")
    address: str = key("", "Address of a running Ray cluster. `auto`: the one of this machine; empty starts one here.")
    cpus: float = key(1.0, "Cores that one Ray worker reserves.", positive(10_000))
    gpus: float = key(0.0, "GPUs that one Ray worker reserves; a share is allowed.", up_to(10_000))


EXHIBITS = (
    "dp_table_prediction",
    "dp_table_metrics",
    "dp_figure_steps",
    "dp_table_prompt_optimization",
    "dp_table_seed_selection",
    "dp_table_grpo",
    "ps_table_spearman",
    "ps_table_selection",
    "ps_table_fid",
    "ps_table_losses",
    "ps_figure_gain",
    "ps_figure_time",
    "ps_figure_blocks",
    "ps_figure_cost",
    "probe_select_released",
)
"""Tables and figures of Diffusion Probe (dp) and Probe-Select (ps) that ``report`` can draw; and Probe-Select as its
authors' code trains it."""


@dataclass(frozen=True)
class Paper:
    """Which table or figure of a paper `probe-lab report` draws, beside its published numbers."""

    exhibit: str = key(
        "", "Table or figure to draw instead of the whole report. Empty: the whole report.", allowed=", ".join(EXHIBITS)
    )


@dataclass(frozen=True)
class Tracking:
    """Where MLflow keeps its runs."""

    uri: str = key(
        "sqlite:///mlflow.db",
        "Address of MLflow's store. The environment's `MLFLOW_TRACKING_URI` wins; an empty one switches tracking off.",
    )
    system_metrics: bool = key(False, "Sample load and memory of the sweep's machine into the parent run.")
