"""The verb that explains the keys of an experiment."""

from __future__ import annotations

from typing import Annotated

import typer

from probe_lab.cli import completion
from probe_lab.cli.arguments import out


def config(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[SECTION|KEY]", help="probe or probe.loss for instance", autocompletion=completion.keys
        ),
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="all keys as a page of the documents")] = False,
) -> None:
    """Print what the keys of an experiment are for, their defaults and what they may be.

    Example: probe-lab config probe

    Example: probe-lab config probe.loss
    """
    from probe_lab.config.manual import manual_table, matching, page

    if markdown:
        print(page(), end="")
        return
    for section in matching(name):
        out.print(manual_table(section))
