"""Previews: decoded predictions of the clean latent, and their scores, the strongest simple rivals of a probe."""
