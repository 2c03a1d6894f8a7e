"""Predict how good a diffusion model's image will be from its own early attention and activations."""

__version__ = "0.1.0"
