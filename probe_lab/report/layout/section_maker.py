"""Sections of a report that an experiment adds to ours, by the names that ``report_sections`` gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from probe_lab.errors import ProbeLabError, ReportError
from probe_lab.registry import Registry
from probe_lab.report.layout.material import Material, Section


@dataclass(frozen=True)
class SectionMaker:
    """Draws a section of the results of an experiment; its figures are made in the style of the report."""

    draw: Callable[[Material], Section]


def _of_function(function: object) -> SectionMaker | None:
    return SectionMaker(function) if callable(function) and not isinstance(function, type) else None


SECTIONS: Registry[SectionMaker] = Registry(
    "section of a report",
    SectionMaker,
    "sections",
    {},
    made=_of_function,
    wanted="a function from a Material to a Section",
)


def drawn_by(name: str) -> Callable[[Material], Section]:
    """The function of a section. What goes wrong in it is a ReportError that names the section."""
    maker = SECTIONS.get(name)

    def draw(material: Material) -> Section:
        try:
            section = maker.draw(material)
        except ProbeLabError:
            raise
        except Exception as error:
            raise ReportError(
                f"the section '{name}' of 'report_sections' failed: {type(error).__name__}: {error}; mend it, or leave "
                "it out"
            ) from error
        if not isinstance(section, Section):
            raise ReportError(f"the section '{name}' gave a {type(section).__name__}: return a Section")
        return section

    return draw
