"""Ways of selecting one image of N, measured in true score, in denoiser calls and in seconds."""

from probe_lab.select.tradeoff.records import About, Pair, Tradeoff, TradeoffRow
from probe_lab.select.tradeoff.ways import QUESTIONS, WAYS, Question, Way

__all__ = ["QUESTIONS", "WAYS", "About", "Pair", "Question", "Tradeoff", "TradeoffRow", "Way"]
