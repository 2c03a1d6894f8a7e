"""Ways of selecting one image of N, measured in true score, in denoiser calls, seconds and operations."""

from probe_lab.select.tradeoff.records import About, Pair, Tradeoff, TradeoffRow
from probe_lab.select.tradeoff.ways import BASES, QUESTIONS, WAYS, Basis, Question, Way

__all__ = ["BASES", "QUESTIONS", "WAYS", "About", "Basis", "Pair", "Question", "Tradeoff", "TradeoffRow", "Way"]
