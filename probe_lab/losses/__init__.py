"""Training objectives of a probe: pure functions of tensors, for one evaluator at a time.

Shapes and conventions, for every function here:

- ``prediction`` and ``target`` are ``[B]``, float32 or float64, on one device, B ≥ 1. ŷ_i and y_i are their
  entries.
- ``group`` is ``[B]`` int64, the prompt of each row. Rows with different ids are never compared with each
  other, and the rows of a prompt need not be adjacent. ``None`` means that the whole batch is one list.
- The result is a scalar that is invariant under a permutation of the batch. Where there is nothing to compare
  (no pair, no list of two, no negative) it is 0, still attached to the graph, with a gradient of zeros.
- The caller guarantees finite input; nothing is filtered here. Gradients are then finite, also for ties and
  for predictions so large that their exponentials are not (only squares, and differences over the
  temperature, must be representable).
- Everything is vectorised over prompts with ``[B, B]`` masks, and made of elementwise operations and
  reductions, which autocast leaves in float32; only the similarities of :func:`info_nce` are a matrix
  product.
"""

from probe_lab.losses.contrast import info_nce
from probe_lab.losses.correlation import FLAT_NORM, pearson, spearman
from probe_lab.losses.order import list_mle, list_net, listwise
from probe_lab.losses.pairs import HINGE, lambda_rank, pairwise_hinge, pairwise_logistic
from probe_lab.losses.squares import mse
from probe_lab.losses.terms import TERMS, Annealed, Term, annealed, parse_loss, rising

__all__ = [
    "FLAT_NORM",
    "HINGE",
    "TERMS",
    "Annealed",
    "Term",
    "annealed",
    "info_nce",
    "lambda_rank",
    "list_mle",
    "list_net",
    "listwise",
    "mse",
    "pairwise_hinge",
    "pairwise_logistic",
    "parse_loss",
    "pearson",
    "rising",
    "spearman",
]
