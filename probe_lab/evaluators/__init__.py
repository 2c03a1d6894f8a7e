"""Evaluators: image and prompt in, score out. One file per model family; the catalogue names them all."""

from probe_lab.evaluators import catalogue as _catalogue  # noqa: F401  registers them
from probe_lab.evaluators.base import Card, Evaluator, Settings, available, card, create, is_known, register, score_all

__all__ = ["Card", "Evaluator", "Settings", "available", "card", "create", "is_known", "register", "score_all"]
