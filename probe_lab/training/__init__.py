"""From a cache and a probe to a trained cell."""
