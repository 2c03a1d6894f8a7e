"""Evaluators: image and prompt in, score out.

One file per model family; importing it here registers its evaluators.
"""

from probe_lab.evaluators import shapes as _shapes  # noqa: F401  registers shapes_*
from probe_lab.evaluators.base import Evaluator, available, create, register, score_all

__all__ = ["Evaluator", "available", "create", "register", "score_all"]
