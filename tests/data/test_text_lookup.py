"""Text of prompts, in memory or read by rows."""

from __future__ import annotations

import pickle

import pytest
import torch
from data_world import Build

from probe_lab.data import text_lookup as module
from probe_lab.data.text_lookup import TextTable


def test_what_does_not_fit_in_memory_is_read_by_rows(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build()
    prompts = torch.tensor([3, 0, 3, 1])
    whole = TextTable.load(world.cache, "clip").rows(prompts)
    monkeypatch.setattr(module, "_SHARE", 10**18)  # of the memory that an array may take: nothing is left
    monkeypatch.setattr(module.TensorRows, "whole", None)
    table = TextTable.load(world.cache, "clip")
    for by_rows in (table, pickle.loads(pickle.dumps(table))):  # as a worker is given it
        for name, ours, theirs in zip(("embedding", "tokens", "token_mask"), whole, by_rows.rows(prompts), strict=True):
            assert by_rows.width(name) == (0 if ours is None else world.text[name].shape[-1])
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)
                assert torch.equal(ours.float(), world.text[name][prompts].float())
