"""Train, val and test by a stable hash of what a prompt says, so that they are disjoint in every cache."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from probe_lab.data.canonical import meaning
from probe_lab.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
RULE = 2
"""Number of the rule below: 1 was a hash of the exact text. Cells record it, since another rule splits otherwise."""
_SHARES = "0 to 1; the three sum to 1"


@dataclass(frozen=True)
class SplitFractions:
    """Expected shares of the prompts.

    Raises:
        ConfigError: one is negative, or they do not sum to 1.
    """

    train: float = field(default=0.8, metadata={"text": "Share of the prompts to train on.", "allowed": _SHARES})
    val: float = field(default=0.1, metadata={"text": "Share that chooses the epoch.", "allowed": _SHARES})
    test: float = field(default=0.1, metadata={"text": "Share that results are reported on.", "allowed": _SHARES})

    def __post_init__(self) -> None:
        for split in SPLITS:
            value = self.of(split)
            if not 0.0 <= value <= 1.0:  # NaN too
                raise ConfigError(f"data.split.{split}={value} is not between 0 and 1: give the share of the prompts")
        total = math.fsum(self.of(split) for split in SPLITS)
        if abs(total - 1.0) > 1e-6:
            raise ConfigError(f"data.split sums to {total:g} ({self}), not 1: change one of train, val and test")

    def of(self, split: Split) -> float:
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def __str__(self) -> str:
        return ", ".join(f"{split} {self.of(split):g}" for split in SPLITS)


def split_key(prompt: str, image_id: str = "") -> str:
    """What decides a prompt's split: the image that it describes, where the source names one, else its ``meaning``."""
    return f"image {image_id}" if image_id else meaning(prompt)


def split_of(prompt: str, fractions: SplitFractions, image_id: str = "") -> Split:
    """The split of a prompt, from its ``split_key`` and the fractions alone, never from the cache.

    The first 53 bits of the key's sha256 are a number in [0, 1); train takes the low end, test the high
    end. When only `test` shrinks in favour of `val`, or the other way round, training prompts stay training
    prompts.
    """
    digest = hashlib.sha256(split_key(prompt, image_id).encode("utf-8")).digest()
    unit = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    chosen: Split = "train"
    limit = 0.0
    for split in SPLITS:
        if fractions.of(split) > 0:
            # The last split that is wanted takes the rest: 0.8 + 0.2 may be a little less than 1.
            chosen = split
            limit += fractions.of(split)
            if unit < limit:
                break
    return chosen


def splits_of(samples: pd.DataFrame, fractions: SplitFractions) -> pd.Series[str]:
    """The split of each row of a table with the column ``prompt`` and, where the source names them, ``image_id``."""
    import pandas as pd  # here, because reading an experiment needs the fractions and no tables

    images = samples["image_id"] if "image_id" in samples else [""] * len(samples)
    keys = list(zip(samples["prompt"], images, strict=True))
    of_key = {(prompt, image): split_of(prompt, fractions, image) for prompt, image in dict.fromkeys(keys)}
    return pd.Series([of_key[key] for key in keys], index=samples.index, name="split", dtype=object)
