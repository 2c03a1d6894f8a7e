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

from probe_lab.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
