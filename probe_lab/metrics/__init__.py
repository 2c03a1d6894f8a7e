"""How good one evaluator's predictions are: global and within-prompt correlation, selection, intervals.

``evaluate`` is the final evaluation; ``paired_difference``, ``compare_predictions`` and ``selection_gain_curve``
answer the questions behind it; ``agreements`` and ``spreads`` look at the evaluators themselves; the torchmetrics
classes compute the same numbers during training. Intervals are over prompts, never over images.
"""

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
