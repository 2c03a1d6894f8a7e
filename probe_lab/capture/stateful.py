"""Tell a denoiser that keeps something from one step to the next."""

from __future__ import annotations

from typing import Any

from torch import nn

_PACKAGES = ("DeepCache", "cache_dit", "para_attn", "tgate", "xfuser")
"""Whose functions in the place of a module's ``forward`` take parts of earlier steps."""

_MARKS = ("enable_teacache", "_is_cached")
"""What TeaCache, and ParaAttention and Cache-DiT, set on a denoiser."""


def kept_between_steps(denoiser: nn.Module) -> str:
    """What it keeps, in words that go on from "the denoiser"; empty for one whose steps depend on their inputs alone.

    Known are the caches of diffusers, those of their hooks that have a state, and packages that put a cache into the
    place of a ``forward``.
    """
    if getattr(denoiser, "is_cache_enabled", False):
        return f"has a cache ({type(vars(denoiser)['_cache_config']).__name__})"
    for mark in _MARKS:
        if getattr(denoiser, mark, False):
            return f"has a cache ({mark})"
    for path, module in denoiser.named_modules():
        where = f" on its module '{path}'" if path else ""
        registry = getattr(module, "_diffusers_hook", None)
        for name, hook in getattr(registry, "hooks", {}).items():
            if hook._is_stateful:
                return f"has a hook with a state ('{name}'{where})"
        package = _package_of(vars(module).get("forward") or type(module).forward)
        if package in _PACKAGES:
            return f"has a cache (of {package}{where})"
    return ""


def _package_of(function: Any) -> str:
    """The top-level package that a function comes from, below what wraps it."""
    names = []
    while function is not None:
        names.append((getattr(function, "__module__", None) or "").partition(".")[0])
        function = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
    return next((name for name in names if name in _PACKAGES), "")
