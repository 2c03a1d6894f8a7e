"""One exhibit of a paper: a page, its tables (CSV, Markdown, LaTeX) and its figure (PDF, PNG)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from probe_lab.errors import ReportError, nearest
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.html_page import Block, page, section_block, table_html
from probe_lab.report.layout.left_out import LeftOut
from probe_lab.report.layout.material import Material, Section
from probe_lab.report.layout.replacing import replacing
from probe_lab.report.layout.style import drawing
from probe_lab.report.layout.table_forms import Table
from probe_lab.report.papers import ablations, costs, downstream, prediction, released
from probe_lab.report.papers.shown import CAUTION, Exhibit, Shown
from probe_lab.report.sections.cell_listing import environment_table

EXHIBITS: Mapping[str, Exhibit] = {
    "dp_table_prediction": prediction.table_prediction,
    "dp_table_metrics": prediction.table_metrics,
    "dp_figure_steps": prediction.figure_steps,
    "dp_table_prompt_optimization": downstream.table_prompt_optimization,
    "dp_table_seed_selection": downstream.table_seed_selection,
    "dp_table_grpo": downstream.table_grpo,
    "ps_table_spearman": ablations.table_spearman,
    "ps_table_selection": downstream.table_selection,
    "ps_table_fid": downstream.table_fid,
    "ps_table_losses": ablations.table_losses,
    "ps_figure_gain": ablations.figure_gain,
    "ps_figure_time": ablations.figure_time,
    "ps_figure_blocks": ablations.figure_blocks,
    "ps_figure_cost": costs.figure_cost,
    "probe_select_released": released.table_released,
}
_SIDE_BY_SIDE = "display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start"
_HALF = "min-width: 0; max-width: 100%"  # a wide table scrolls by itself, not the page


def build_exhibit(
    exhibit: str,
    *,
    runs: Path,
    out: Path,
    title: str,
    evaluators: Sequence[str],
    primary_step: int | None,
    model: str,
    steps: int,
) -> Path:
    """Write ``out/index.html``, ``out/figures`` and ``out/tables`` with one table or figure of a paper in its layout,
    published numbers beside those of the sweep in ``runs``; returns the page. An existing report is replaced.

    ``evaluators`` and ``primary_step`` as in ``build_report``; ``model`` is what to call the backbone, ``steps`` the
    denoiser calls of a whole image.

    Raises ReportError for an exhibit that there is not, and as ``build_report`` does.
    """
    if exhibit not in EXHIBITS:
        raise ReportError(f"there is no exhibit '{exhibit}': {nearest(exhibit, EXHIBITS)}")
    results = load_results(runs)
    material = Material(results, choose(results, evaluators, primary_step), None)
    with replacing(out) as folder, drawing():
        (folder / "figures").mkdir()
        (folder / "tables").mkdir()
        section = EXHIBITS[exhibit](Shown(material, model, steps))
        blocks = [_block(section, folder), _environment(material, folder)]
        (folder / "index.html").write_text(page(title, CAUTION, blocks), encoding="utf-8", errors="backslashreplace")
    return out / "index.html"


def _block(section: Section, folder: Path) -> Block:
    section = LeftOut().saved(section, folder)
    block = section_block(section, folder)
    tables = "\n".join(f'<div style="{_HALF}">{_saved(table, folder)}</div>' for table in section.tables)
    return Block(block.key, block.title, f'{block.body}\n<div style="{_SIDE_BY_SIDE}">\n{tables}\n</div>')


def _environment(material: Material, folder: Path) -> Block:
    body = _saved(environment_table(material), folder)
    config = material.results.config(next(iter(material.results.seeds(material.choice.best).values())))
    if config:
        body += f"\n<h3>Configuration of the best probe</h3>\n<pre>{html.escape(config)}</pre>"
    return Block("environment", "Data and environment", body)


def _saved(table: Table, folder: Path) -> str:
    table.save(folder / "tables")
    return table_html(table)
