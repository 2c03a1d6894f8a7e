"""The verbs that help to begin: an experiment to start from, how large it has to be, and which way will pay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probe_lab.cli.arguments import ExperimentName, Overrides, experiment_of, out


def init(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="sdxl, sd3, flux, qwen-image, …, or tiny-sd")],
    output: Annotated[Path | None, typer.Option(help="file to write; default: my_<family>.yaml here")] = None,
) -> None:
    """Write a first experiment for a family of models, with a comment on every part. Nothing is overwritten.

    Example: probe-lab init sdxl --output experiments/mine.yaml
    """
    from probe_lab.generation.starting_file import write_start

    path = write_start(family, output)
    out.print(f"{path}: read it, change what is yours, then `probe-lab plan {path}`")


def power(
    experiment: ExperimentName,
    overrides: Overrides = None,
    difference: Annotated[list[float] | None, typer.Option(help="that shall be seen; repeatable")] = None,
) -> None:
    """Print how many test prompts and training seeds it takes to tell two probes apart.

    From the finished cells of the experiment, by its first evaluator; without any, from assumptions that are said.

    Example: probe-lab power quickstart --difference 0.03
    """
    from probe_lab.compare.power_table import basis_of, power_lines, power_tables
    from probe_lab.errors import ConfigError

    if wrong := [value for value in difference or [] if not 0 < value < 1]:
        raise ConfigError(f"--difference {wrong[0]:g} is none to look for: give one between 0 and 1")
    config = experiment_of(experiment, overrides)
    basis = basis_of(config.runs_folder, config.probe_evaluators[0])
    for table in power_tables(basis, difference or ()):
        out.print(table)
    for line in power_lines(basis):
        out.print(line)


def breakeven(
    experiment: ExperimentName,
    overrides: Overrides = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="PART=X", help="of call, decode, tiny_decode, evaluator or probe; repeatable"),
    ] = None,
    skill: Annotated[
        list[str] | None,
        typer.Option(metavar="WAY=R", help="of probe, preview, tiny_preview or lookahead; repeatable"),
    ] = None,
    fewer: Annotated[
        list[str] | None,
        typer.Option(metavar="STEPS=LOSS", help="standard deviations that fewer steps lose; repeatable"),
    ] = None,
    budget: Annotated[
        list[float] | None, typer.Option(help="per prompt, in the unit of the prices; repeatable")
    ] = None,
    unit: Annotated[str, typer.Option(help="what prices are in; default: what was measured, else calls")] = "",
) -> None:
    """Print which way of selecting gives most for which budget, and where the probe starts to pay.

    Skills are correlations with the score within prompts, or selection gains; prices are in any unit. Both are read
    from the experiment's `tradeoff` where that has its evaluator, steps and cut, else skills from its cells; what is
    given here replaces them. Steps and cut are those of the experiment (`sampling.steps`, `probe.step`), images kept
    are `select.keep`.

    Example: probe-lab breakeven quickstart --skill probe=0.45 --skill preview=0.7 --price decode=0.8 --fewer 10=0.15
    """
    from probe_lab.tradeoff.breakeven import Terms, numbers_of, steps_of
    from probe_lab.tradeoff.breakeven_table import breakeven_lines, offers_table
    from probe_lab.tradeoff.measured_terms import terms_of

    config = experiment_of(experiment, overrides)
    step, steps = config.probe.step, config.sampling.steps
    read = terms_of(config.runs_folder, config.probe_evaluators[0], step, steps)
    terms = Terms(
        prices={**({} if unit else read.prices), **numbers_of("--price", price)},  # type: ignore[dict-item]
        skills={**read.skills, **numbers_of("--skill", skill)},  # type: ignore[dict-item]
        step=step,
        steps=steps,
        fewer={**read.fewer, **steps_of(numbers_of("--fewer", fewer))},
        keep=config.select.keep,
    )
    called = unit or read.unit
    out.print(offers_table(terms, budget or (), called))
    for line in breakeven_lines(terms, called):
        out.print(line)
    prices = ", ".join(f"{part} {value:.3g}" for part, value in terms.prices.items())
    out.print(f"Prices in {called}: {prices}. Measured numbers: {read.text}.")
