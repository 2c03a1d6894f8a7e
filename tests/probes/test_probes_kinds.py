"""Models that a program registers stand beside ours."""

from __future__ import annotations

import pytest

from probe_lab import ProbeKind, load_experiment, register_probe
from probe_lab.errors import ConfigError
from probe_lab.probes.kinds import MODELS, kind_of


def test_a_registered_model_is_named_as_ours_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    mine = ProbeKind("my own", reads=("x0",))
    register_probe("mine", mine)
    assert kind_of(load_experiment("smoke", ["probe.model=mine"]).probe.model) is mine
    register_probe("mine", mine)  # a script that is run again in one session
    with pytest.raises(ConfigError, match="the probe model 'cnn' is registered twice"):
        register_probe("cnn", mine)
