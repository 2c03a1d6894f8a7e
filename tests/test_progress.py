"""Rates that people can believe: from the first report on, without what was done before, over the last minute."""

from __future__ import annotations

import pytest

from probe_lab.progress import Rate, progress


def test_the_first_report_is_where_it_starts_from() -> None:
    rate = Rate()
    assert rate.see(5000, 0.0) == 0
    assert rate.see(5010, 2.0) == 5


def test_a_burst_of_reports_does_not_raise_the_rate() -> None:
    rate = Rate()
    rate.see(0, 0.0)
    assert [round(rate.see(done, 8.0 + done / 1e6)) for done in (64, 128, 192)] == [8, 16, 24]


def test_it_forgets_what_is_a_minute_old() -> None:
    rate = Rate()
    for second in range(200):
        seen = rate.see(second * (1 if second < 100 else 10), float(second))
    assert seen == pytest.approx(10)


def test_without_a_terminal_only_the_end_is_told_of_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("score", "images") as update:
        for done in (4, 6, 8):
            update(done, 8)
    assert capsys.readouterr().err.startswith("score: 8/8 images, ")
