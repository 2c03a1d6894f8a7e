"""The command line. Each verb reads an experiment, calls its room and prints what came out; there is no logic here.

One module per group of verbs. What a verb needs is imported within it, so that ``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from probe_lab import __version__
from probe_lab.cli.arguments import out
from probe_lab.cli.deciding import breakeven, init, power
from probe_lab.cli.demo import demo
from probe_lab.cli.explaining import config
from probe_lab.cli.filling import cache_info, cache_verify, generate, plan, taps
from probe_lab.cli.reporting import report
from probe_lab.cli.scoring import list_evaluators, score
from probe_lab.cli.selecting import select, tradeoff
from probe_lab.cli.start import run
from probe_lab.cli.training import compare, judge, sweep, track, train

app = typer.Typer(
    name="probe-lab",
    help="Predict how good a diffusion model's image will be from its own early attention and activations.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_VERBS: dict[str, Callable[..., None]] = {
    "init": init,
    "plan": plan,
    "taps": taps,
    "generate": generate,
    "score": score,
    "evaluators": list_evaluators,
    "judge": judge,
    "train": train,
    "sweep": sweep,
    "report": report,
    "track": track,
    "compare": compare,
    "select": select,
    "tradeoff": tradeoff,
    "power": power,
    "breakeven": breakeven,
    "demo": demo,
    "config": config,
}
for _name, _verb in _VERBS.items():
    app.command(_name)(_verb)

cache_app = typer.Typer(help="Look at a cache: what it holds, and whether it is intact.")
cache_app.command("info")(cache_info)
cache_app.command("verify")(cache_verify)
app.add_typer(cache_app, name="cache")


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    if version:
        out.print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Entry point of the command ``probe-lab``."""
    run(app)
