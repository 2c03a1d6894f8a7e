"""Be told of the calls of an object, its methods or a module, and undo that in any order."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from torch import nn

HookCallback = Callable[..., None]
StandIn = Callable[..., Any]
"""Called as ``stand_in(original, *arguments)`` instead of ``original(*arguments)``."""
Undo = Callable[[], None]

_CHANGING = threading.RLock()
"""Held while listeners come or go: pipelines in several threads may share the parts that are listened to."""


class _Listened:
    """Stands in for a bound method of one object while somebody listens to it."""

    def __init__(self, owner: object, name: str) -> None:
        self._original = getattr(owner, name)
        functools.update_wrapper(self, self._original)  # pipelines inspect the signature
        self._owner = owner
        self._name = name
        self._own = vars(owner).get(name)
        self.before: list[HookCallback] = []
        self.around: list[StandIn] = []
        self.after: list[HookCallback] = []

    def leave(self) -> None:
        """Put back what was there, once nobody listens."""
        if self.before or self.around or self.after:
            return
        if self._own is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for listener in list(self.before):
            listener(*args, **kwargs)
        method = self._original
        for stand_in in list(self.around):  # the last one is the outermost
            method = functools.partial(stand_in, method)
        result = method(*args, **kwargs)
        for listener in list(self.after):
            listener(*args, **kwargs)
        return result


def before_method(owner: object, name: str, listener: HookCallback) -> Undo:
    """Call ``listener`` with the arguments of ``owner.name`` before each call of it."""
    return _listen(owner, name, lambda listened: listened.before, listener)


def after_method(owner: object, name: str, listener: HookCallback) -> Undo:
    """Call ``listener`` with the arguments of ``owner.name`` after each call of it."""
    return _listen(owner, name, lambda listened: listened.after, listener)


def around_method(owner: object, name: str, stand_in: StandIn) -> Undo:
    """Call ``stand_in(original, *arguments)`` instead of ``owner.name(*arguments)``."""
    return _listen(owner, name, lambda listened: listened.around, stand_in)


def around_call(owner: Any, stand_in: StandIn, **attributes: object) -> Undo:
    """Call ``stand_in(original, *arguments)`` instead of ``owner(*arguments)``.

    Python looks a call up in the class, so until it is undone ``owner`` is of a subclass, which has the name and
    signature of its class, and ``attributes``. Other instances of the subclass are called as ever.
    """
    plain = type(owner)

    @functools.wraps(plain.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        original = functools.partial(plain.__call__, self)
        return stand_in(original, *args, **kwargs) if self is owner else original(*args, **kwargs)

    names = {name: getattr(plain, name) for name in ("__doc__", "__module__", "__qualname__")}
    listened = type(plain.__name__, (plain,), {**names, **attributes, "__call__": call})
    owner.__class__ = listened

    def undo() -> None:
        if type(owner) is listened:
            owner.__class__ = plain

    return undo


def _listen(owner: object, name: str, side: Callable[[_Listened], list[Any]], listener: Callable[..., Any]) -> Undo:
    with _CHANGING:
        listened = vars(owner).get(name)
        if not isinstance(listened, _Listened):
            listened = _Listened(owner, name)
            setattr(owner, name, listened)
        side(listened).append(listener)

    def undo() -> None:
        with _CHANGING:
            side(listened).remove(listener)
            listened.leave()

    return undo


def before_module(module: nn.Module, listener: Callable[..., None]) -> Undo:
    """``listener(module, args, kwargs)`` before each forward."""
    return module.register_forward_pre_hook(listener, with_kwargs=True).remove


def after_module(module: nn.Module, listener: Callable[..., None]) -> Undo:
    """``listener(module, args, kwargs, output)`` after each forward; the output is None if that raised."""
    return module.register_forward_hook(listener, with_kwargs=True, always_call=True).remove
