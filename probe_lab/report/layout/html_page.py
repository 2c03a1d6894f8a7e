"""One static HTML page: everything inline, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass
from pathlib import Path

from probe_lab.report.layout.material import Section
from probe_lab.report.layout.table_forms import Table

MARK = '<meta name="generator" content="probe_lab report">'
"""Says of a page that it, and the folder around it, may be replaced by the next report."""
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Block:
    """One heading of the page with what stands under it, ready as HTML."""

    key: str
    title: str
    body: str


def section_block(section: Section, folder: Path) -> Block:
    """A family of figures, whose files are in ``folder/figures``, with what is missing and how to read it."""
    parts = [paragraph(f"Not shown: {reason}", "skipped") for reason in section.skipped]
    for drawing in section.drawings:
        png = folder / "figures" / f"{drawing.name}.png"
        data = base64.b64encode(png.read_bytes()).decode()
        name = f"figures/{drawing.name}"
        links = f'<a href="{name}.pdf">PDF</a> · <a href="{name}.png">PNG</a>'
        width = f"--width: {8.5 * drawing.figure.get_figwidth():.1f}rem"
        alt = html.escape(drawing.alt, quote=True)
        image = f'<img style="{width}" src="data:image/png;base64,{data}" alt="{alt}">'
        parts.append(f"<figure>{image}<figcaption>{links}</figcaption></figure>")
    if section.drawings:
        parts.append(paragraph(section.explanation, "reading"))
    return Block(section.key, section.title, "\n".join(parts))


def table_html(table: Table, *, caption: bool = True) -> str:
    """A table with links to its files in ``tables/``."""
    links = " · ".join(
        f'<a href="tables/{table.name}{suffix}">{name}</a>'
        for suffix, name in ((".csv", "CSV"), (".md", "Markdown"), (".tex", "LaTeX"))
    )
    return f'{table.html(caption=caption)}\n<p class="files">{links}</p>'


def paragraph(text: str, style: str = "") -> str:
    """Plain text as a paragraph."""
    opening = f'<p class="{style}">' if style else "<p>"
    line = re.sub(r"[ \n]+", " ", text.strip())  # a space that does not break stays
    return f"{opening}{html.escape(line)}</p>"


def page(title: str, lead: str, blocks: list[Block]) -> str:
    """The whole page."""
    css = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    name = html.escape(title)
    contents = "\n".join(f'<a href="#{block.key}">{html.escape(block.title)}</a>' for block in blocks)
    body = "\n".join(
        f'<section id="{block.key}">\n<h2>{html.escape(block.title)}</h2>\n{block.body}\n</section>' for block in blocks
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{MARK}
<title>{name}</title>
<script>document.documentElement.className = "js"</script>
<style>
{css}</style>
</head>
<body>
<header>
<h1>{name}</h1>
{paragraph(lead, "lead")}
<nav aria-label="contents">
{contents}
</nav>
{paragraph("Press a heading of a table to sort by that column, again to turn the order round.", "hint")}
</header>
<main>
{body}
</main>
<script>
{script}</script>
</body>
</html>
"""
