"""Stored pictures, opened as what a cache may hold and nothing else."""

from __future__ import annotations

import io

from PIL import Image

from probe_lab.errors import CacheError

FORMATS = ("PNG", "JPEG", "WEBP")
"""Pillow knows many more; some of them start other programs (EPS)."""
MOST_PIXELS = 2**26
"""Where a cache does not say how large its pictures are."""


def opened(data: bytes, most: int = MOST_PIXELS) -> Image.Image:
    """A picture whose header is read; its pixels, at most ``most`` of them, are decoded when they are first used.

    Raises:
        CacheError: it is none of ``FORMATS``, damaged, or larger than that, by its header.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever its decoder met: OSError, SyntaxError, ValueError, struct.error
        raise CacheError(f"it is not a readable picture ({', '.join(FORMATS)}): {error}") from error
    if image.width * image.height > most:
        raise CacheError(f"it has {image.width}×{image.height} pixels, and {most} are the most that are decoded here")
    return image
