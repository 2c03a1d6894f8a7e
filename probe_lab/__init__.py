"""Predict how good a diffusion model's image will be from its own early attention and activations.

The names that people need, imported when they are first used: ``load_experiment`` reads an experiment;
``generate_images``, ``score_images``, ``train_probe``, ``run_sweep`` and ``write_report`` run its stages; ``Cache``
reads what was generated, and ``Runs`` what was trained; ``Capture`` and ``Tap`` read a pipeline of diffusers while it
runs, and ``ProbeSelect`` prunes its candidates early (docs/python.md).
"""

from probe_lab.lazy import lazy_names
from probe_lab.old_module_names import find_moved_modules

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
find_moved_modules()
