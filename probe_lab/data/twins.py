"""Prompts that say the same as another one, and test prompts whose twin is in another split."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from probe_lab.data.canonical import meaning


@dataclass(frozen=True)
class Twins:
    """Of some prompts: how many say the same as an earlier one (``repeated``), and of the ``test`` prompts, how many
    say the same as one in another split (``leaked``)."""

    repeated: int
    leaked: int
    test: int


def twins_of(prompts: pd.DataFrame, splits: pd.Series[str]) -> Twins:
    """Of a table with one row per prompt and the column ``prompt``, whose rows are in ``splits``.

    By what the text says (see ``meaning``), whatever image it describes: captions of two images may be equal.
    """
    said = prompts["prompt"].map(meaning)
    elsewhere = set(said[splits != "test"])
    test = said[splits == "test"]
    return Twins(int(said.duplicated().sum()), int(test.isin(elsewhere).sum()), len(test))
