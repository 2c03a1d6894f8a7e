"""What the original packages need before they can be imported; loaded only where ``backend: reference`` runs one.

Each repair lasts for the import alone.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import open_clip

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def hpsv2_scoring() -> ModuleType:
    """``hpsv2.img_score`` of hpsv2 1.2.0, whose import fails as it is published.

    Its wheel lacks the vocabulary of its tokenizer: it is read from open_clip, which ships the same file. And it
    imports a name that it never uses from ``turtle``, which many builds of Python come without: it gets an empty one.
    """
    with _vocabulary_of_open_clip(), _empty_turtle():
        return import_module("hpsv2.img_score")


@contextmanager
def _vocabulary_of_open_clip() -> Iterator[None]:
    original = gzip.open
    ours = Path(open_clip.__file__).with_name(VOCABULARY)

    def redirected(file: Any, *arguments: Any, **options: Any) -> Any:
        missing = isinstance(file, str) and Path(file).name == VOCABULARY and not Path(file).exists()
        return original(ours if missing else file, *arguments, **options)

    gzip.open = redirected  # type: ignore[assignment]
    try:
        yield
    finally:
        gzip.open = original


@contextmanager
def _empty_turtle() -> Iterator[None]:
    original = sys.modules.get("turtle")
    empty = ModuleType("turtle")
    empty.forward = None  # type: ignore[attr-defined]
    sys.modules["turtle"] = empty
    try:
        yield
    finally:
        del sys.modules["turtle"]
        if original:
            sys.modules["turtle"] = original
