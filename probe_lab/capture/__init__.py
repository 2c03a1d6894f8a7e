"""Read a diffusion model's own attention and activations while a stock diffusers pipeline runs."""

from probe_lab.capture.capture import Capture
from probe_lab.capture.taps import Tap

__all__ = ["Capture", "Tap"]
