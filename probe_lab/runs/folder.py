"""The finished cells of one experiment, or of several beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from probe_lab.errors import ReportError
from probe_lab.runs.cell import FinishedCell
from probe_lab.runs.configs import Configs
from probe_lab.runs.files import finished_at, finished_names, is_finished, objection, read_metrics


class Runs:
    """The cells in one or several runs folders, ``runs/<experiment>``: all that are finished, whichever sweep or
    training they are of."""

    def __init__(self, *folders: Path) -> None:
        self.folders = tuple(dict.fromkeys(folders))
        self._configs = Configs()

    @cached_property
    def labels(self) -> Mapping[Path, str]:
        """Each runs folder's name; the whole path where several have that name."""
        counts = Counter(folder.name for folder in self.folders)
        return {folder: folder.name if counts[folder.name] == 1 else str(folder) for folder in self.folders}

    @classmethod
    def of(cls, runs: Path | Runs) -> Runs:
        """``runs`` itself, or those of a folder."""
        return runs if isinstance(runs, Runs) else cls(runs)

    def __str__(self) -> str:
        return " and ".join(map(str, self.folders))

    def finished(self, names: Collection[str] | None = None) -> list[Path]:
        """The folders of the finished cells, of ``names`` only where given, by name within each runs folder.

        Raises:
            ReportError: there is none in one of the runs folders.
        """
        cells: list[Path] = []
        for folder in self.folders:
            own = [folder / name for name in finished_names(folder) if names is None or name in names]
            if not own:
                raise ReportError(f"no cell in {folder} is finished: run `probe-lab sweep` or `probe-lab train` first")
            cells += own
        return cells

    def cells(self, names: Collection[str] | None = None) -> list[FinishedCell]:
        """The finished cells, of ``names`` only where given.

        Raises:
            ReportError: there is none, or the ``metrics.json`` of one is damaged.
        """
        return self.read(self.finished(names))

    def read(self, folders: Iterable[Path]) -> list[FinishedCell]:
        """The cells in these folders. ReportError for one without, or with a damaged, ``metrics.json``."""
        return [FinishedCell(folder, read_metrics(folder), self._label(folder), self._configs) for folder in folders]

    def _label(self, cell_folder: Path) -> str:
        return self.labels.get(cell_folder.parent, cell_folder.parent.name)

    def latest(self, count: int) -> list[Path]:
        """The folders of so many cells that were finished last, the last first; none where there is none."""
        paths = [folder / name for folder in self.folders for name in finished_names(folder)]
        return sorted(paths, key=lambda path: finished_at(path) or 0, reverse=True)[:count]

    def cell(self, name: str) -> FinishedCell:
        """One cell of the first runs folder. ReportError where it is not finished or damaged."""
        return self.read([self.folders[0] / name])[0]

    def sound(self, names: Iterable[str]) -> tuple[dict[str, FinishedCell], dict[str, str]]:
        """The finished ones of ``names`` in the first runs folder: those whose files are all as they were written, and
        what is wrong with each of the others. All their files are read."""
        folder = self.folders[0]
        finished = [name for name in names if is_finished(folder / name)]
        spoilt = {name: wrong for name in finished if (wrong := objection(folder / name))}
        return {name: self.cell(name) for name in finished if name not in spoilt}, spoilt

    def called(self, wanted: str, among: Sequence[Path] | None = None) -> list[Path]:
        """The folder of the finished cell of that name, else of those that begin so, else of those that hold it.

        ``experiment/cell`` names a cell of one of several runs folders.

        Raises:
            ReportError: none is called so.
        """
        cells = self.finished() if among is None else among
        own = {path: f"{self._label(path)}/{path.name}" if "/" in wanted else path.name for path in cells}
        whole = [path for path, name in own.items() if name == wanted]
        called = (
            whole
            or [path for path, name in own.items() if name.startswith(wanted)]
            or [path for path, name in own.items() if wanted in name]
        )
        if not called:
            raise ReportError(
                f"none of the {len(cells)} finished cells in {self} has '{wanted}' in its name: "
                "`probe-lab compare EXPERIMENT --limit 0` lists them by the digits at their end"
            )
        return called
