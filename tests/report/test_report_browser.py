"""The page in a real browser: it loads without network, its tables sort and filter, a phone and paper hide nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAMS, Chromium, find_chromium

from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.html_page import Block, page, table_html
from probe_lab.report.layout.table_forms import Table

PAGE = "index.html"
ROWS = 300
HUGE = Table(
    "huge",
    "Three hundred rows",
    "Some have no number.",
    ("name", "n", "SRCC", "note"),
    tuple(
        (f"row {i}", (i * 7) % ROWS, None if i % 10 == 0 else Value((i % 41 - 20) / 20, -1.0, 1.0), "odd" * (i % 2))
        for i in range(ROWS)
    ),
)
TEXTS = """[...document.querySelectorAll('table.sortable')].map(table => [...table.tBodies[0].rows].map(
    row => [...row.cells].map(cell => cell.textContent)))"""
SHOWN = "[...document.querySelectorAll('#table-huge tbody tr')].filter(row => row.offsetHeight).length"
CONTRAST = """[...document.querySelectorAll(
    'h1, h2, p, a, td, th, caption div, .interval, pre, input, .tools button')].map(element => {
        let behind = element;
        while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
        return [element.tagName + '.' + element.className, getComputedStyle(element).color,
                getComputedStyle(behind || document.body).backgroundColor];
    })"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser to test the page in (looked for {', '.join(PROGRAMS)})")
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def long_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "index.html"
    path.write_text(page("Long", "One table.", [Block("table", "Table", table_html(HUGE))]), encoding="utf-8")
    return path


def _problems(browser: Chromium) -> list[dict[str, Any]]:
    said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
    return [event for event in browser.events if event["method"] in said]


def _number(text: str) -> float | None:
    """ "−0.12 [−0.2, 0.1]" -> -0.12; "–" -> None. ValueError for a word."""
    return None if text == "–" else float(text.split(" [")[0].replace("−", "-"))


def _is_number(text: str) -> bool:
    try:
        return _number(text) is None or True
    except ValueError:
        return False


def test_nothing_is_wrong_and_nothing_is_fetched(browser: Chromium, report: Path) -> None:
    browser.open(report / PAGE)
    assert _problems(browser) == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [(report / PAGE).resolve().as_uri()]
    images = browser.value("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(images) >= 10
    assert min(images) > 300


def test_every_link_of_the_contents_leads_to_its_heading(browser: Chromium, report: Path) -> None:
    browser.open(report / PAGE)
    pairs = browser.value(
        "[...document.querySelectorAll('nav a')].map("
        "a => [a.textContent, document.querySelector(a.hash + ' h2').textContent])"
    )
    assert len(pairs) >= 12
    assert all(link == heading for link, heading in pairs)


def test_all_tables_sort_by_all_columns(browser: Chromium, report: Path) -> None:
    browser.open(report / PAGE)
    tables = browser.value(TEXTS)
    assert len(tables) >= 8
    tried = 0
    for i, rows in enumerate(tables):
        for column in range(len(rows[0])):
            up, down = (_sort(browser, i, column) for _ in range(2))
            values = [row[column] for row in up]
            assert sorted(values) == sorted(row[column] for row in rows)
            if all(_is_number(value) for value in values):
                known = [n for value in values if (n := _number(value)) is not None]
                empty = ["–"] * (len(values) - len(known))
                assert known == sorted(known), (i, column)
                assert values[len(known) :] == empty, (i, column)
                assert [_number(row[column]) for row in down][: len(known)] == known[::-1]
                assert [row[column] for row in down][len(known) :] == empty
                tried += len(set(known)) > 2
            else:
                changes = sum(a != b for a, b in pairwise(values))
                assert changes == len(set(values)) - 1, "equal words stand together"
    assert tried > 20
    assert _problems(browser) == []


def _sort(browser: Chromium, table: int, column: int) -> list[list[str]]:
    heading = f"document.querySelectorAll('table.sortable')[{table}].tHead.rows[0].cells[{column}]"
    browser.value(f"{heading}.querySelector('button').click()")
    found: list[list[str]] = browser.value(TEXTS)[table]
    return found


def test_a_heading_sorts_by_the_keyboard_and_says_so(browser: Chromium, long_table: Path) -> None:
    browser.open(long_table)
    browser.value("document.querySelectorAll('th button')[1].focus()")
    states = []
    for _ in range(2):
        browser.press("Enter", 13)
        states.append(browser.value("[...document.querySelectorAll('thead th')].map(th => th.ariaSort)"))
    assert states == [[None, "ascending", None, None], [None, "descending", None, None]]
    assert [int(row[1]) for row in browser.value(TEXTS)[0]] == list(range(ROWS))[::-1]


def test_a_long_table_opens_in_parts_and_can_be_filtered(browser: Chromium, long_table: Path) -> None:
    browser.open(long_table)
    said = "[document.querySelector('.tools output').value, document.querySelector('.tools button').hidden]"
    assert browser.value(SHOWN) == 50
    assert browser.value(said) == ["50 of 300 rows", False]
    _filter(browser, "ODD 299")  # both words, in any column, in any case
    kept = browser.value(
        "[...document.querySelectorAll('tbody tr')].filter(r => r.offsetHeight).map(r => r.cells[0].textContent)"
    )
    assert kept == ["row 257", "row 299"]  # 257 · 7 = 299 modulo 300
    assert browser.value(said) == ["2 of 300 rows", True]
    _filter(browser, "")
    browser.value("document.querySelector('.tools button').click()")
    assert browser.value(SHOWN) == ROWS
    assert browser.value(said) == ["300 rows", True]


def _filter(browser: Chromium, words: str) -> None:
    box = "document.querySelector('.tools input')"
    browser.value(f"{box}.value = '{words}', {box}.dispatchEvent(new Event('input'))")


def test_sorting_brings_other_rows_to_the_top_of_a_long_table(browser: Chromium, long_table: Path) -> None:
    browser.open(long_table)
    browser.value("document.querySelectorAll('th button')[2].click()")
    rows = browser.value(
        "[...document.querySelectorAll('tbody tr')].filter(r => r.offsetHeight).map(r => r.cells[2].textContent)"
    )
    expected = sorted(row[2].estimate for row in HUGE.rows if isinstance(row[2], Value))[:50]
    assert [_number(row) for row in rows] == pytest.approx(expected)


def test_without_scripts_all_rows_are_there(browser: Chromium, long_table: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(long_table)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.value(SHOWN) == ROWS


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_only_boxes_scroll_sideways(browser: Chromium, report: Path, width: int) -> None:
    browser.open(report / PAGE, width)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    outside = browser.value(
        f"[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > {width} && "
        "!e.closest('.wide, figure, pre')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_on_a_phone_no_row_is_hidden_in_a_box_and_text_is_not_tiny(browser: Chromium, report: Path) -> None:
    browser.open(report / PAGE, 360, 740)
    clipped = "[...document.querySelectorAll('.wide, section')].filter(e => e.scrollHeight > e.clientHeight + 1).length"
    assert browser.value(clipped) == 0
    assert browser.value("getComputedStyle(document.querySelector('.wide')).overflowX") == "auto"
    sizes = browser.value(
        "[...document.querySelectorAll('p, td, th')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 10.5


def test_paper_shows_everything(browser: Chromium, report: Path) -> None:
    browser.open(report / PAGE, 800, media="print")
    assert browser.value("document.querySelector('details').open") is False
    pages = re.findall(rb"/Type\s*/Page\b", browser.pdf())
    assert 4 < len(pages) < 60
    assert browser.value("[...document.querySelectorAll('details')].every(e => e.open)")
    fixed = "['sticky', 'fixed'].includes(getComputedStyle(e).position)"
    assert browser.value(f"[...document.querySelectorAll('*')].filter(e => {fixed}).length") == 0
    assert browser.value(
        "[...document.querySelectorAll('.wide')].every(e => getComputedStyle(e).overflow === 'visible')"
    )
    assert browser.value("[...document.querySelectorAll('tbody tr')].every(row => row.offsetHeight > 0)")
    assert browser.value("document.querySelector('nav').offsetHeight") == 0


def test_paper_of_a_huge_table_shows_the_rows_of_the_screen_and_says_so(browser: Chromium, long_table: Path) -> None:
    browser.open(long_table, 800, media="print")
    assert browser.value(SHOWN) == 50
    assert browser.value("document.querySelector('.tools output').offsetHeight") > 0
    assert browser.value("document.querySelector('.tools input').offsetHeight") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Chromium, report: Path, scheme: str) -> None:
    browser.open(report / PAGE, scheme=scheme)
    found = browser.value(CONTRAST)
    assert len(found) > 500
    worst = min(found, key=lambda each: _contrast(each[1], each[2]))
    assert _contrast(worst[1], worst[2]) >= 4.5, worst
    dark = _luminance(found[0][2]) < 0.1
    assert dark == (scheme == "dark")


def _contrast(a: str, b: str) -> float:
    """As the Web Content Accessibility Guidelines define it, 1 … 21."""
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
