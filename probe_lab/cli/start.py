"""How a command begins and ends: its errors as one line, its exit code, and what it says when it is interrupted."""

from __future__ import annotations

import sys

import typer
from typer.exceptions import TyperException

from probe_lab.console import visible
from probe_lab.errors import ProbeLabError

# At the top, since a process that ran out of memory or files imports nothing more.
from probe_lab.resource_errors import scarcity

INTERRUPTED = 130
RESUMED = {"generate", "score", "judge", "sweep", "train", "tradeoff", "track", "demo"}
"""Verbs that keep what they have done so far."""


def run(app: typer.Typer) -> None:
    """Run the command of ``sys.argv`` and exit. Errors of ours, and what the machine lacks, are one line on stderr and
    exit code 2, unless ``--debug`` asks for the traceback."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
    except ProbeLabError as error:
        if debug:
            raise
        fail(str(error))
    except TyperException as error:  # wrong usage: its text may be followed by a hint on lines of their own
        fail(getattr(error, "format_message", error.__str__)())
    except Exception as error:
        lacking = scarcity(error)
        if debug or not lacking:
            raise
        fail(f"{lacking}; then run the same command again")
    if code == INTERRUPTED:  # typer turns Ctrl-C into this exit code
        resumes = not {*arguments[:1]} - RESUMED
        print(f"\ninterrupted{': the same command continues where it stopped' if resumes else ''}", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str) -> None:
    """Print one line, whatever the message quotes, and leave with exit code 2."""
    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)
