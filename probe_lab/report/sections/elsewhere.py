"""The cells of an experiment that were trained on other images than most of a report shows: a part for each set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from probe_lab.cache import Cache
from probe_lab.errors import ReportError
from probe_lab.report.analysis.chosen import choose, probes, steps_of, variant_text
from probe_lab.report.analysis.origin import origin_names
from probe_lab.report.analysis.results import Results
from probe_lab.report.layout.material import Material, Section
from probe_lab.report.sections import curves, guide, heatmap, losses, selection
from probe_lab.report.sections.cell_listing import cells_table
from probe_lab.report.sections.headline import headline_tables
from probe_lab.safe_names import slug

_FAMILIES: tuple[Callable[[Material], Section], ...] = (
    guide.section,
    curves.section,
    heatmap.section,
    losses.section,
    selection.section,
)


@dataclass(frozen=True)
class OriginReport:
    """Everything that is shown of one origin; figures and tables have names of their own."""

    key: str
    title: str
    lead: str
    sections: tuple[Section, ...]


def on_cache(results: Results, cache: Cache) -> Results:
    """The results whose images are those of a cache, all others ``elsewhere``.

    Several fit where backbones got the same prompts and seeds: then the name of the cache and the backbone decide.

    Raises ReportError when no cell was trained on it.
    """
    parts = (results, *results.elsewhere)
    found = [part for part in parts if same_samples(part, cache, str(part.cells["cell"].iloc[0]))]
    if not found:
        raise of_another_cache(results, cache)
    names = (cache.folder.name, cache.manifest.backbone)
    best = max(found, key=lambda part: (part.origin.cache == names[0], part.origin.backbone == names[1]))
    return replace(best, elsewhere=tuple(part for part in parts if part is not best))


def of_another_cache(results: Results, cache: Cache) -> ReportError:
    """What to say where samples differ."""
    return ReportError(
        f"the cache {cache.folder} is not the one that {results.folder} was trained on (their samples differ): give "
        "the report that cache, or run the sweep again"
    )


def same_samples(results: Results, cache: Cache, cell: str) -> bool:
    """Whether the predictions of a cell speak of a cache's samples."""
    evaluator = results.scores.loc[results.scores["cell"] == cell, "evaluator"].iloc[0]
    predicted = results.predictions(cell, evaluator)
    return len(predicted.merge(cache.samples, on=["sample_id", "prompt_id", "seed"])) == len(predicted)


def statement(results: Results) -> str:
    """Which part of the page is of which images; empty where all cells are of the same."""
    if not results.elsewhere:
        return ""
    home, *others = _names(results)
    told = [
        f"\u201c{_title(name)}\u201d of {len(part.cells)} cells (cache {part.origin.cache})"
        for name, part in zip(others, results.elsewhere, strict=True)
    ]
    return (
        f"The cells are of {len(others) + 1} sets of images, which are never averaged or compared with each other: "
        f"\u201cWhich loss?\u201d has figures of each, {', '.join(told)}, and all the rest is of the "
        f"{len(results.cells)} cells of {home} (cache {results.origin.cache})."
    )


def parts(material: Material) -> list[OriginReport]:
    """A part for each of the other origins: its best probe, figures and cells."""
    results = material.results
    return [_part(material, other, name) for name, other in zip(_names(results)[1:], results.elsewhere, strict=True)]


def _part(material: Material, other: Results, name: str) -> OriginReport:
    ending = slug(name)
    choice = material.choice
    evaluators = [evaluator for evaluator in choice.evaluators if evaluator in other.evaluators] or other.evaluators
    if probes(other):
        step = choice.step if choice.step in steps_of(other, probes(other)) else None
        own = Material(other, choose(other, evaluators, step), None)
        headline = Section("headline", "Best probe and baselines", "", tables=tuple(headline_tables(own)))
        sections = [headline, *(family(own) for family in _FAMILIES)]
        lead = f"The best probe at step {own.choice.step} is {variant_text(own.choice.best, step=False)}."
    else:
        own = Material(other, replace(choice, evaluators=tuple(evaluators)), None)
        sections, lead = [], "No probe was trained on these images, only baselines."
    sections.append(Section("cells", "Cells", "", tables=(cells_table(own),)))
    about = (
        f"{len(other.cells)} cells, trained on the images of {name} (cache {other.origin.cache}). {lead} What needs "
        "images or arrays is drawn of the first set only."
    )
    return OriginReport(f"on_{ending}", _title(name), about, tuple(_renamed(section, ending) for section in sections))


def _renamed(section: Section, ending: str) -> Section:
    """Files of another origin stand beside those of the first, so their names must differ."""
    return replace(
        section,
        drawings=tuple(replace(drawing, name=f"{drawing.name}_{ending}") for drawing in section.drawings),
        tables=tuple(replace(table, name=f"{table.name}_{ending}") for table in section.tables),
    )


def _title(name: str) -> str:
    return f"On {name}"


def _names(results: Results) -> Sequence[str]:
    return origin_names([part.origin for part in (results, *results.elsewhere)])
