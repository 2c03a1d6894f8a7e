"""The tests of ``sweep.select`` and of conditional axes: ``step in [5, 10] and loss != "mse"``.

An expression is read by Python's ``ast`` and only looked at, never executed.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from probe_lab.config.keys import key_of
from probe_lab.errors import ConfigError

_ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ALLOWED = "compare keys with values by == != < <= > >= in, join tests by and, or, not"


def _by_no_name(name: str) -> bool:
    return False


@dataclass(frozen=True)
class Operand:
    """What stands on one side of a comparison. ``called`` says whether a list of taps is the set of a name."""

    content: Any
    called: Callable[[str], bool] = _by_no_name
    of_key: bool = False


@dataclass(frozen=True)
class Choice:
    """A test of cells. ``keys`` maps each name in ``text`` to the dotted key that it means; no text chooses all."""

    text: str
    keys: Mapping[str, str]

    @classmethod
    def parse(cls, text: str, swept: Iterable[str], *, where: str) -> Choice:
        """Read a test over keys of an experiment (see ``key_of``), of whose keys some are ``swept``.

        Raises:
            ConfigError: what is no such test; ``where`` names the key that holds it.
        """
        if not text.strip():
            return cls("", {})
        names: dict[str, str] = {}
        try:
            _check(_tree(text), names, tuple(swept))
        except ConfigError as error:
            raise ConfigError(f"{where} is '{text}': {error}") from None
        return cls(text, names)

    def names(self, key: str) -> bool:
        """Whether it asks for a dotted key, by whichever name."""
        return key in self.keys.values()

    def holds(self, value_of: Callable[[str], Operand]) -> bool:
        """Whether it is true where ``value_of`` gives the value of a dotted key.

        - A list of texts (taps) equals a text that joins it by "+", or that is the name of its set.
        - ``"attention" in taps``: a tap of that kind is among them; a tap's whole name, a module at or above one, a
          pattern and the name of their set are looked for likewise (``is_named``). ``"mse" in loss``: the loss has it.
        - A key that has no value here (None) equals no text, and no text is in it.

        Raises:
            ConfigError: values that have no order, or no part that could be in them.
        """
        if not self.text:
            return True
        try:
            return _truth(_tree(self.text), lambda name: value_of(self.keys[name]))
        except ConfigError as error:
            raise ConfigError(f"'{self.text}' cannot be tested: {error}") from None


def _tree(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's opinions on the style of what it reads
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ConfigError(f"it cannot be read; {_ALLOWED}, and write texts in quotes") from error


def _check(node: ast.expr, names: dict[str, str], swept: tuple[str, ...]) -> None:
    """Refuse all but tests, and note the keys of their names."""
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check(part, names, swept)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            _check(part, names, swept)
        case ast.Compare(left=left, comparators=others):
            found = [_name(side) for side in (left, *others)]
            for side in (side for side, name in zip((left, *others), found, strict=True) if not name):
                _literal(side)
            if not any(found):
                raise ConfigError(f"'{ast.unparse(node)}' names no key; {_ALLOWED}")
            names |= {name: key_of(name, swept) for name in found if name}
        case _ if name := _name(node):
            names[name] = key_of(name, swept)
        case _:
            raise ConfigError(f"'{ast.unparse(node)}' is not allowed; {_ALLOWED}")


def _name(node: ast.expr) -> str:
    """``step`` or ``probe.step``; "" for what is no name."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=owner, attr=name):
            return f"{_name(owner)}.{name}" if _name(owner) else ""
    return ""


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return [_literal(part) for part in parts]
    raise ConfigError(f"'{ast.unparse(node)}' is no value; {_ALLOWED}")


def _truth(node: ast.expr, value_of: Callable[[str], Operand]) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_truth(part, value_of) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_truth(part, value_of) for part in parts)
        case ast.UnaryOp(operand=part):
            return not _truth(part, value_of)
        case ast.Compare(left=left, ops=signs, comparators=others):
            sides = [value_of(name) if (name := _name(side)) else Operand(_literal(side)) for side in (left, *others)]
            return all(_compared(sign, *sides[i : i + 2]) for i, sign in enumerate(signs))
    found = value_of(_name(node)).content
    if not isinstance(found, bool):
        raise ConfigError(f"'{_name(node)}' is {found!r}, which is neither true nor false: compare it with a value")
    return found


def _compared(sign: ast.cmpop, left: Operand, right: Operand) -> bool:
    match sign:
        case ast.Eq() | ast.Is():
            return _same(left, right)
        case ast.NotEq() | ast.IsNot():
            return not _same(left, right)
        case ast.In():
            return _within(left, right)
        case ast.NotIn():
            return not _within(left, right)
    try:
        return bool(_ORDER[type(sign)](left.content, right.content))
    except TypeError:
        raise ConfigError(f"{left.content!r} and {right.content!r} have no order") from None


def _same(left: Operand, right: Operand) -> bool:
    for one, other in ((left, right), (right, left)):
        if isinstance(one.content, list) and isinstance(other.content, str):
            return other.content == "+".join(map(str, one.content)) or one.called(other.content)
    return bool(left.content == right.content)


def _within(left: Operand, right: Operand) -> bool:
    if isinstance(right.content, list) and not right.of_key:
        return any(_same(left, Operand(part)) for part in right.content)
    if right.content is None and right.of_key:
        return False
    if isinstance(right.content, list) and isinstance(left.content, int | float):
        return left.content in right.content
    if not isinstance(left.content, str) or not isinstance(right.content, list | str):
        raise ConfigError(f"{left.content!r} cannot be in {right.content!r}: write a text, or a list of values")
    if isinstance(right.content, str):
        return left.content in right.content
    return any(is_named(str(entry), left.content) for entry in right.content) or right.called(left.content)


def is_named(entry: str, name: str) -> bool:
    """Whether ``name`` names an entry of a list of taps (or of other texts, which are named by themselves alone).

    A tap is named by itself, by its kind, by its module or one that holds it (``up_blocks.1`` holds
    ``up_blocks.1.attentions.0`` and not ``up_blocks.10``), and by a pattern that it matches.
    """
    module, _, kind = entry.rpartition("/")
    if "*" in name or "?" in name:
        return fnmatchcase(entry, name)
    return (name in (entry, kind, module) and name != "") or module.startswith(f"{name}.")
