"""Build a report: read, decide, draw, write; the finished folder replaces the old one at the end."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from probe_lab.cache import Cache
from probe_lab.errors import CacheError
from probe_lab.progress import OnProgress
from probe_lab.report.analysis.chosen import choose, variant_text
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.html_page import Block, page, paragraph, section_block, table_html
from probe_lab.report.layout.left_out import LeftOut
from probe_lab.report.layout.material import Material, Section
from probe_lab.report.layout.replacing import replacing
from probe_lab.report.layout.section_maker import drawn_by
from probe_lab.report.layout.style import drawing, evaluator_label, number_text
from probe_lab.report.layout.table_forms import Table
from probe_lab.report.sections import (
    activations,
    attention,
    beside,
    complexity,
    curves,
    elsewhere,
    guide,
    heatmap,
    learning,
    losses,
    reliability,
    scatter,
    selection,
    tradeoff,
    transfer,
    which_loss,
)
from probe_lab.report.sections import evaluator_agreement as agreement
from probe_lab.report.sections.cell_listing import cells_table, environment_table, failures_table
from probe_lab.report.sections.headline import headline_tables, to_win
from probe_lab.report.sections.paper import paper_tables

FAMILIES: tuple[Callable[[Material], Section], ...] = (
    guide.section,
    curves.section,
    learning.section,
    heatmap.section,
    which_loss.section,
    losses.section,
    selection.section,
    tradeoff.section,
    complexity.section,
    scatter.section,
    reliability.section,
    transfer.section,
    attention.section,
    activations.section,
)


def build_report(
    *,
    runs: Path,
    cache: Path | None,
    out: Path,
    title: str,
    evaluators: Sequence[str],
    primary_step: int | None = None,
    others: Mapping[str, Path] | None = None,
    scored: Sequence[str] = (),
    sections: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Write ``out/index.html``, ``out/figures`` (PDF, PNG) and ``out/tables`` (CSV, Markdown, LaTeX);
    returns the page.

    ``runs`` is the folder of one experiment, runs/<name>; ``cache`` its cache (None, or a folder that is gone or
    cannot be read: figures that need images or tensors are left out, and the page says so); ``evaluators`` empty
    means all in the results, and the first one decides which probe is best; ``primary_step`` None means the step of
    the baselines, else 5, else the median step; ``others`` are runs folders of experiments, by name, that are shown
    side by side with this one; ``scored`` are the evaluators whose agreement is shown, empty: ``evaluators``.
    Where cells were trained on several caches, the report is of those of ``cache`` (None: of the one with most cells),
    the others have a part each. An existing report in ``out`` is replaced once the new one is complete: a failure
    leaves it as it was. ``on_note`` is told at the end what had to be left out and why, a sentence each: all that
    needs the cache, or one of its files that is gone or damaged. ``sections`` name further ones, which follow ours.

    Raises ReportError when there are no results or they are of another version, when ``cache`` is not the
    one that the probes were trained on, or when ``out`` holds something else or cannot be written.
    """
    results = load_results(runs)
    opened, left_out = _opened(cache)
    if opened is not None:
        results = elsewhere.on_cache(results, opened)
    choice = choose(results, evaluators, primary_step)
    material = Material(results, choice, opened, others or {})
    best = next(iter(results.seeds(choice.best).values()))
    if opened is not None and not elsewhere.same_samples(results, opened, best):
        raise elsewhere.of_another_cache(results, opened)
    families = (*FAMILIES, *map(drawn_by, sections))
    with replacing(out) as folder, drawing():
        names = tuple(scored) or choice.evaluators
        tell = on_progress or (lambda done, total: None)
        _write(material, folder, title, families, others or {}, names, left_out, tell)
    if on_note is not None:
        for line in left_out.lines():
            on_note(line)
    return out / "index.html"


def _opened(cache: Path | None) -> tuple[Cache | None, LeftOut]:
    """The cache, None where there is none that can be read, with the reason."""
    if cache is None:
        return None, LeftOut()
    try:
        return Cache(cache), LeftOut()
    except CacheError as error:
        return None, LeftOut(f"the cache is not there or cannot be read ({error}).")


def _write(
    material: Material,
    folder: Path,
    title: str,
    families: Sequence[Callable[[Material], Section]],
    others: Mapping[str, Path],
    scored: Sequence[str],
    left_out: LeftOut,
    on_progress: OnProgress,
) -> None:
    rivals = beside.rivals_of(material, title, others) if others else []  # first: it may be refused
    total = len(families) + 2
    (folder / "figures").mkdir()
    (folder / "tables").mkdir()
    on_progress(0, total)
    # How the probe was chosen is the caption of every file, but the page says it once.
    headline = _tables(headline_tables(material), folder, captions=1)
    blocks = [Block("headline", "Best probe and baselines", headline)]
    for i, section in enumerate(families, start=1):
        on_progress(i, total)
        blocks.append(_drawn(left_out.section(section, material), folder, left_out))
    blocks += [_part(part, folder, left_out) for part in elsewhere.parts(material)]
    if rivals:
        blocks.insert(1, _beside(material, folder, rivals, left_out))
    on_progress(total - 1, total)
    blocks += [
        _agreement(material, folder, scored, left_out),
        Block("papers", "The papers' numbers", _tables(paper_tables(material), folder)),
        _failures(material, folder),
        Block("cells", "Cells", _tables([cells_table(material)], folder)),
        _environment(material, folder),
    ]
    lead = " ".join([_lead(material), *(f"{line[0].upper()}{line[1:]}" for line in left_out.lines())])
    text = page(title, lead, blocks)
    (folder / "index.html").write_text(text, encoding="utf-8", errors="backslashreplace")
    on_progress(total, total)


def _drawn(section: Section, folder: Path, left_out: LeftOut) -> Block:
    section = left_out.saved(section, folder)
    block = section_block(section, folder)
    parts = [paragraph(section.lead)] if section.lead else []
    parts += [block.body, _tables(list(section.tables), folder)]
    return Block(block.key, block.title, "\n".join(parts))


def _part(part: elsewhere.OriginReport, folder: Path, left_out: LeftOut) -> Block:
    drawn = [_drawn(section, folder, left_out) for section in part.sections]
    body = "\n".join(f"<h3>{html.escape(block.title)}</h3>\n{block.body}" for block in drawn)
    return Block(part.key, part.title, f"{paragraph(part.lead)}\n{body}")


def _beside(material: Material, folder: Path, rivals: list[beside.Rival], left_out: LeftOut) -> Block:
    drawn = _drawn(beside.section(material, rivals), folder, left_out)
    return Block(drawn.key, drawn.title, f"{drawn.body}\n{_tables([beside.table(material, rivals)], folder)}")


def _agreement(material: Material, folder: Path, evaluators: Sequence[str], left_out: LeftOut) -> Block:
    def family(material: Material) -> Section:
        found = agreement.scored(material, evaluators)
        tables = agreement.tables(found) if found else []
        return replace(agreement.section(found, evaluators), tables=tuple(tables))

    return _drawn(left_out.section(family, material), folder, left_out)


def _tables(tables: list[Table], folder: Path, captions: int | None = None) -> str:
    for table in tables:
        table.save(folder / "tables")
    return "\n".join(table_html(table, caption=captions is None or i < captions) for i, table in enumerate(tables))


def _failures(material: Material, folder: Path) -> Block:
    table = failures_table(material)
    if table is None:
        return Block("failures", "Failures", paragraph("No cell failed."))
    return Block("failures", "Failures", f'<div class="failed">{_tables([table], folder)}</div>')


def _environment(material: Material, folder: Path) -> Block:
    body = _tables([environment_table(material)], folder)
    config = material.results.config(next(iter(material.results.seeds(material.choice.best).values())))
    if config:
        shown = f"<summary>Configuration of the best probe</summary>\n<pre>{html.escape(config)}</pre>"
        body += f"\n<details>{shown}</details>"
    return Block("environment", "Data and environment", body)


def _lead(material: Material) -> str:
    results, choice = material.results, material.choice
    evaluator = choice.evaluators[0]
    value = results.value(choice.best, evaluator, "srcc_within")
    number = (
        f" ranks the seeds of an unseen prompt with SRCC {number_text(value.estimate)} "
        f"[{number_text(value.lower)}, {number_text(value.upper)}] "
        f"by {evaluator_label(evaluator)}"
        if value
        else ""
    )
    parts = (results, *results.elsewhere)
    halved = sum(len(part.halved) for part in parts)
    count = halved + sum(len(part.cells) for part in parts)
    cells = f"{count:,}".replace(",", "\u00a0")
    failed = f"; {len(results.failures)} failed" if results.failures else ""
    return (
        f"{to_win(material)}At step {choice.step} the best probe ({variant_text(choice.best, step=False)}){number}. "
        f"{cells} cells were trained{failed}. {_halved(halved)}All numbers are of the test split unless said "
        f"otherwise. {elsewhere.statement(results)}"
    ).strip()


def _halved(count: int) -> str:
    if not count:
        return ""
    return (
        f"Successive halving stopped {count} of them before the last epoch: they are listed among the cells, and left "
        "out of all means and of the choice of the best probe. "
    )
