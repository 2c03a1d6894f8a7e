"""Experiment files and overrides to plain containers, each key's text read as what the key holds.

YAML takes ``2024_01_05`` for a number and ``no`` for false. Here the key decides: one that holds a text gets the text
as it was written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from probe_lab.config.key_types import OPEN, hint_at, inner, is_section, is_text, without_null
from probe_lab.config.plain_values import scalar_of
from probe_lab.config.schema import Schema
from probe_lab.config.world_sections import Backbone
from probe_lab.config.yaml_text import require_bounds
from probe_lab.errors import ConfigError, nearest

OVERRIDES = "the overrides"
SWEEP = "sweep"
DEFAULTS = "defaults"
"""The key of a file that names those which it includes."""
_SPECIAL = {SWEEP: SWEEP, DEFAULTS: list[str]}
"""What stands in a file and is no key of the schema."""
_TEXT = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"


@dataclass
class Document:
    """What a file or an override says. ``places`` holds the file and line of every key, as messages name them."""

    origin: str
    content: Any = None
    places: dict[str, str] = field(default_factory=dict)


def read_document(path: Path) -> Document:
    """An experiment file.

    Raises:
        ConfigError: it cannot be read, is no UTF-8, no YAML, empty, no mapping, or has a value that its key cannot
            hold. The sentence names the file and the line.
    """
    try:
        text = _decoded(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    document = Document(str(path))
    node = _composed(text, document.origin)
    if node is None:
        raise ConfigError(f"{path} is empty: an experiment is a YAML mapping, see experiments/quickstart.yaml")
    if not isinstance(node, MappingNode):
        raise ConfigError(f"{path} holds no keys: an experiment is a YAML mapping, see experiments/quickstart.yaml")
    document.content = _Reading(document).value(node, Schema, "")
    return document


def read_value(key: str, text: str) -> Any:
    """What an override ``key=text`` sets its key to. ConfigError when the key cannot hold it."""
    path = key.split(".")
    hint = SWEEP if key == SWEEP else str if key == f"{SWEEP}.select" else hint_at(path)
    if is_text(hint) or (hint is Backbone and not text.lstrip().startswith("{")):
        return _chosen(_unquoted(text), hint, key, OVERRIDES)
    node = _composed(text, f"'{key}={text}' in {OVERRIDES}") or ScalarNode(_TEXT, "")
    reading = _Reading(Document(OVERRIDES))
    return reading.texts(node) if path[:2] == [SWEEP, "sets"] else reading.value(node, hint, key)


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"{path} is UTF-16 text: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: the byte 0x{content[error.start]:02x} is no UTF-8: save the file as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"{path}, line {line}: there are NUL bytes, as in UTF-16 text: save the file as UTF-8")
    return text


def _composed(text: str, origin: str) -> Node | None:
    """The nodes of a text; ConfigError with the line for what is no YAML."""
    try:
        require_bounds(yaml.parse(text, Loader=yaml.SafeLoader))
        node: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_told(error, origin)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ConfigError(f"{origin}, line {line}: the character U+{code:04X} is not allowed") from error
    return node


def _told(error: yaml.MarkedYAMLError, origin: str) -> str:
    mark, start = error.problem_mark or error.context_mark, error.context_mark
    place = f", line {mark.line + 1}" if mark else ""
    begun = f", which begins on line {start.line + 1}" if start and mark and start.line != mark.line else ""
    problem = f"{error.problem or 'it is no YAML'}{f' {error.context}' if error.context else ''}{begun}"
    return f"{origin}{place} cannot be read: {problem}"


def _chosen(text: str, hint: Any, key: str, place: str) -> str:
    """A text; ConfigError where its key takes one of a few and it is none of these, nor a reference."""
    allowed = get_args(hint)
    if allowed and text not in allowed and "${" not in text:
        raise ConfigError(f"'{key}' in {place} is not valid: '{text}' is none of its values: {nearest(text, allowed)}")
    return text


def _unquoted(text: str) -> str:
    """A text in YAML's quotes without them, every other one as it is."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    return str(node.value) if isinstance(node, ScalarNode) and node.style else text


@dataclass(frozen=True)
class _Reading:
    document: Document

    def value(self, node: Node, hint: Any, key: str) -> Any:
        """What a node says for a key with this annotation."""
        hint, optional = without_null(hint)
        if isinstance(node, ScalarNode) and "${" in node.value and not is_text(hint):
            return node.value
        if optional and node.tag == _NULL:
            return None
        if hint == SWEEP:
            return self._sweep(node)
        if hint is Backbone and isinstance(node, ScalarNode):
            return node.value
        if is_section(hint) or get_origin(hint) is dict:
            return self._section(node, hint, key)
        if get_origin(hint) is list:
            return self._list(node, get_args(hint)[0], key)
        if hint is OPEN:
            return self._open(node)
        if not isinstance(node, ScalarNode):
            kind = "a text" if is_text(hint) else {int: "a whole number", float: "a number"}.get(hint, "true or false")
            raise self._refusal(
                node, key, f"it holds {kind}, no {'list' if isinstance(node, SequenceNode) else 'mapping'}"
            )
        if is_text(hint):
            return _chosen(node.value, hint, key, self._place(node))
        try:
            return scalar_of(node.value, hint)
        except ValueError as error:
            raise self._refusal(node, key, f"{error}{', or null' if optional else ''}") from error

    def _section(self, node: Node, hint: Any, key: str) -> dict[str, Any]:
        if not isinstance(node, MappingNode):
            raise ConfigError(f"'{key}' in {self._place(node)} is a section: write '{key}.<key>'")
        prefix = f"{key}." if key else ""

        def at(name: str, below: Node) -> Any:
            self.document.places[prefix + name] = self._place(below)
            special = _SPECIAL.get(prefix + name)
            return self.value(below, special or inner(hint, name), prefix + name)

        return self._mapping(node, at)

    def _list(self, node: Node, hint: Any, key: str) -> list[Any]:
        if isinstance(node, SequenceNode):
            return [self.value(item, hint, key) for item in node.value]
        if isinstance(node, ScalarNode) and hint is int and node.value:  # one number is a list of one
            return [self.value(node, hint, key)]
        written = node.value if isinstance(node, ScalarNode) and node.value else "..."
        wanted = f"{key}=[{written}]" if self._overrides else f"[{written}]"
        raise self._refusal(node, key, f"it is a list, so write {wanted}")

    @property
    def _overrides(self) -> bool:
        return self.document.origin == OVERRIDES

    def _sweep(self, node: Node) -> Any:
        if isinstance(node, SequenceNode):
            return [self._sweep(item) for item in node.value]
        if not isinstance(node, MappingNode):
            return self._open(node)
        readers: dict[str, Callable[[Node], Any]] = {
            "select": self._open,
            "seeds": lambda below: self._number(below, "sweep.seeds"),
            "sets": self.texts,
            "grids": self._sweep,
        }
        return self._mapping(node, lambda name, below: readers.get(name, lambda axis: self._axis(axis, name))(below))

    def texts(self, node: Node) -> Any:
        """Every plain value as the text that it is, in lists and mappings as they are."""
        if isinstance(node, SequenceNode):
            return [self.texts(item) for item in node.value]
        if isinstance(node, MappingNode):
            return self._mapping(node, lambda name, below: self.texts(below))
        return node.value

    def _axis(self, node: Node, key: str) -> Any:
        """The values of an axis: a list, a range, or ``values`` with a condition."""
        if isinstance(node, SequenceNode):
            return [self._swept(item, key) for item in node.value]
        if not isinstance(node, MappingNode):
            return self._open(node)
        return self._mapping(
            node,
            lambda name, below: self._axis(below, key) if name == "values" else self._word(name, below, key),
        )

    def _word(self, name: str, node: Node, key: str) -> Any:
        return self._number(node, key) if name in ("from", "to", "step", "count") else self._open(node)

    def _number(self, node: Node, key: str) -> Any:
        """A whole number or another one; what is none as YAML has it."""
        if isinstance(node, ScalarNode):
            for hint in (int, float):
                with contextlib.suppress(ValueError):
                    return scalar_of(node.value, hint)
        other = self._open(node)
        if isinstance(other, int | float) and not isinstance(other, bool):
            return self.value(node, float, key)  # 010, which is refused
        return other

    def _swept(self, node: Node, key: str) -> Any:
        """One value of an axis; a plain tap among lists of taps is a list of one."""
        hint, _ = without_null(hint_at(key.split(".")))
        if get_origin(hint) is list and isinstance(node, ScalarNode):
            hint = get_args(hint)[0]
        if isinstance(node, MappingNode) and not is_section(hint):
            return self._axis(node, key)  # a range
        return self.value(node, hint, key)

    def _open(self, node: Node) -> Any:
        """As YAML has it."""
        if isinstance(node, SequenceNode):
            return [self._open(item) for item in node.value]
        if isinstance(node, MappingNode):
            return self._mapping(node, lambda name, below: self._open(below))
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError) as error:
            raise ConfigError(f"{self._place(node)}: '{node.value}' is no value: write it in quotes") from error

    def _mapping(self, node: MappingNode, at: Callable[[str, Node], Any]) -> dict[str, Any]:
        """Every key once; what is merged (``<<``) lies under the mapping's own."""
        lines: dict[str, int] = {}
        for name_node, _ in node.value:
            if not isinstance(name_node, ScalarNode):
                raise ConfigError(f"{self._place(name_node)}: a list or mapping is no name of a key")
            if name_node.value in lines:
                raise ConfigError(
                    f"{self._place(name_node)}: '{name_node.value}' is there twice (also on line "
                    f"{lines[name_node.value]}): leave one of them out"
                )
            lines[name_node.value] = name_node.start_mark.line + 1
        try:
            merged = _flat(node)
        except yaml.MarkedYAMLError as error:
            raise ConfigError(_told(error, self.document.origin)) from error
        return {name: at(name, below) for name, below in merged.items()}

    def _refusal(self, node: Node, key: str, problem: str) -> ConfigError:
        return ConfigError(f"'{key}' in {self._place(node)} is not valid: {problem}")

    def _place(self, node: Node) -> str:
        return self.document.origin if self._overrides else f"{self.document.origin}, line {node.start_mark.line + 1}"


def _flat(node: MappingNode) -> dict[str, Node]:
    copy = MappingNode(node.tag, list(node.value), node.start_mark, node.end_mark)
    yaml.SafeLoader("").flatten_mapping(copy)
    return {name.value: below for name, below in copy.value}
