"""Counts what PyTorch computes: the totals of its own ``FlopCounterMode`` in about half of the time.

That one also keeps a tree of modules, whose hooks cost more than small models compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class OperationCounter(TorchDispatchMode):
    """``total`` operations of what runs inside: a multiplication and an addition are two.

    Convolutions, matrix products and attention count, on every device and without data too; nothing else does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        function: OpOverload,
        types: object,
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = keywords or {}
        formula = _formula(function)
        if formula is None and _is_composite(function):
            with self:
                return function.decompose(*arguments, **keywords)
        result = function(*arguments, **keywords)
        if formula is not None:
            self.total += formula(*arguments, **keywords, out_val=result)
        return result


@cache
def _formula(function: OpOverload) -> Callable[..., int] | None:
    formula: Callable[..., int] | None = flop_registry.get(function._overloadpacket)
    of_shapes: Callable[..., int] | None = getattr(formula, "__wrapped__", None)
    if of_shapes is None:
        return formula

    def count(*arguments: object, out_val: object, **keywords: object) -> int:
        """As ``formula``, which looks for tensors in any tree of arguments, in a tenth of the time."""
        shapes = {name: _shapes(value) for name, value in keywords.items()}
        return of_shapes(*map(_shapes, arguments), out_shape=_shapes(out_val), **shapes)

    return count


def _shapes(value: object) -> object:
    """The shape in a tensor's place, also within lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.shape
    return [_shapes(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _is_composite(function: OpOverload) -> bool:
    """Whether it is written in terms of others, of which some may count: such arrive here under ``inference_mode``."""
    return bool(function.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))
