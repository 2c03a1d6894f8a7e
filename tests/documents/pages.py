"""The documents as a reader meets them: their fenced blocks in order, and the commands in these."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "probe_lab" / "shapes" / "weights").glob("*/README.md")),
    ROOT / "reports" / "README.md",
    ROOT / "data_cache" / "README.md",
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SHELL = ("probe-lab", "python", "make", "source", "pip", "ray", "mlflow", "hf")
_ASSIGNED = re.compile(r"[A-Z_]+=\S*")
_INLINE = re.compile(r"`(probe-lab [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page that it is of, its line there, language and text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """``docs/cache.md:28``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_shell(self) -> bool:
        """Whether its lines are commands: of a shell by its language, or without one by its first word."""
        first = _without_variables(shlex.split(self.commands[0])) if self.commands else []
        return self.language == "bash" or (self.language == "" and first[:1] != [] and first[0] in _SHELL)

    @property
    def commands(self) -> tuple[str, ...]:
        """Its lines, continued ones joined, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = (_uncommented(line) for line in lines) if self.language in ("bash", "") else ()
        return tuple(line for line in words if line)

    @property
    def is_synopsis(self) -> bool:
        """Whether its commands are forms with placeholders, as `probe-lab plan EXPERIMENT`, beside what they do."""
        return self.is_shell and all(
            re.search(r"EXPERIMENT|FAMILY|PATH|SECTION|^probe-lab demo ", line) for line in self.commands
        )


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], textwrap.dedent(match[3]))
        for match in _FENCE.finditer(text)
    ]


def inline_commands(text: str) -> Iterator[list[str]]:
    """The words of each `probe-lab …` in backquotes that can be split."""
    for command in _INLINE.findall(text):
        try:
            yield shlex.split(command.replace("\n", " "))
        except ValueError:  # a quote that the text ends
            continue


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables that stand before a command, and its words."""
    words = shlex.split(command)
    rest = _without_variables(words)
    variables = dict(word.split("=", 1) for word in words[: len(words) - len(rest)])
    return variables, rest


def _without_variables(words: list[str]) -> list[str]:
    count = next((i for i, word in enumerate(words) if not _ASSIGNED.fullmatch(word)), len(words))
    return words[count:]


def _uncommented(line: str) -> str:
    """A shell's comment begins at a # after a blank, outside of quotes."""
    quote = ""
    for position, sign in enumerate(line):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "#" and line[:position][-1:] in ("", " "):
            return line[:position].strip()
    return line.strip()
