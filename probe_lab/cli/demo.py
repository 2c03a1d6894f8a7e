"""The verb that runs the others, one after the other."""

from __future__ import annotations

from probe_lab.cli.arguments import Overrides, out
from probe_lab.cli.filling import generate
from probe_lab.cli.reporting import report
from probe_lab.cli.scoring import score
from probe_lab.cli.selecting import select
from probe_lab.cli.training import compare, sweep


def demo(overrides: Overrides = None) -> None:
    """The whole corridor on the shapes world, generate to select, in about ten minutes on two cores.

    Example: probe-lab demo prompts.count=100
    """
    from probe_lab.probes.shipped import SHIPPED

    changes = list(overrides or [])
    for verb in (generate, score, sweep):
        out.rule(f"probe-lab {verb.__name__} quickstart")
        verb("quickstart", changes)
    out.rule("probe-lab compare quickstart")
    compare(["quickstart", *changes])
    out.rule("probe-lab report quickstart")
    report("quickstart", changes)
    out.rule(f"probe-lab select quickstart --probe {SHIPPED}")
    prompts = ["a red circle left of a blue square", "a yellow triangle above a green cross"]
    select("quickstart", changes, prompts, candidates=8, probe=[SHIPPED], score=True, everything=True)
