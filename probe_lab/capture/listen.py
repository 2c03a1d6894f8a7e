"""Be told of the calls of a method or a module, and undo that in any order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

Listener = Callable[..., None]
Undo = Callable[[], None]


class _Listened:
    """Stands in for a bound method of one object while somebody listens to it."""

    def __init__(self, owner: object, name: str) -> None:
        self._original = getattr(owner, name)
        functools.update_wrapper(self, self._original)  # pipelines inspect the signature
        self._owner = owner
        self._name = name
        self._own = vars(owner).get(name)
        self.before: list[Listener] = []
        self.after: list[Listener] = []

    def leave(self) -> None:
        """Put back what was there, once nobody listens."""
        if self.before or self.after:
            return
        if self._own is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for listener in list(self.before):
            listener(*args, **kwargs)
        result = self._original(*args, **kwargs)
        for listener in list(self.after):
            listener(*args, **kwargs)
        return result


def before_method(owner: object, name: str, listener: Listener) -> Undo:
    """Call ``listener`` with the arguments of ``owner.name`` before each call of it."""
    return _listen(owner, name, lambda listened: listened.before, listener)


def after_method(owner: object, name: str, listener: Listener) -> Undo:
    """Call ``listener`` with the arguments of ``owner.name`` after each call of it."""
    return _listen(owner, name, lambda listened: listened.after, listener)


def replace_method(owner: object, name: str, stand_in: Callable[..., Any]) -> Undo:
    """Call ``stand_in(original, *arguments)`` instead of ``owner.name(*arguments)``."""
    original, own = getattr(owner, name), vars(owner).get(name)
    setattr(owner, name, functools.update_wrapper(functools.partial(stand_in, original), original))

    def undo() -> None:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)

    return undo


def _listen(owner: object, name: str, side: Callable[[_Listened], list[Listener]], listener: Listener) -> Undo:
    listened = vars(owner).get(name)
    if not isinstance(listened, _Listened):
        listened = _Listened(owner, name)
        setattr(owner, name, listened)
    side(listened).append(listener)

    def undo() -> None:
        side(listened).remove(listener)
        listened.leave()

    return undo


def before_module(module: nn.Module, listener: Callable[..., None]) -> Undo:
    """``listener(module, args, kwargs)`` before each forward."""
    return module.register_forward_pre_hook(listener, with_kwargs=True).remove


def after_module(module: nn.Module, listener: Callable[..., None]) -> Undo:
    """``listener(module, args, kwargs, output)`` after each forward; the output is None if that raised."""
    return module.register_forward_hook(listener, with_kwargs=True, always_call=True).remove
