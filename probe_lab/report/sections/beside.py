"""Several experiments side by side: the same question to two backbones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from probe_lab.report.analysis.chosen import baselines_of, best_on_validation, probes, steps_of
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.results import Results, Value
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import COLUMN, METRICS, evaluator_label, legend_label, look, model_label
from probe_lab.report.layout.table_forms import Field, Table

METRICS_SHOWN = ("srcc_within", "selection_gain")
_IN_A_ROW = 4
"""Names in a row of the legend."""

_EXPLANATION = """Each line is another experiment, on its own unseen prompts. At every step it shows the probe (of any
tap and loss) that validates best there; shaded: 95 % interval over test prompts. Backbones differ in
how much their seeds differ, so compare shapes and baselines more than heights. Suspicious would be: a line that starts
high at step 1 in one experiment only."""


@dataclass(frozen=True)
class Rival:
    """One of the experiments that stand beside each other."""

    name: str
    results: Results


def rivals_of(material: Material, title: str, others: Mapping[str, Path]) -> list[Rival]:
    """This experiment first, then the others, by name and runs folder, each called after its backbone."""
    found = {title: material.results} | {name: load_results(folder) for name, folder in others.items()}
    labels = {name: _backbone(results) for name, results in found.items()}
    told_apart = len(set(labels.values())) == len(labels)
    return [Rival(labels[name] if told_apart else name, results) for name, results in found.items()]


def section(material: Material, rivals: list[Rival]) -> Section:
    """The best probe over steps, a line per experiment."""
    evaluator = material.choice.evaluators[0]
    figure = Figure(figsize=(2 * COLUMN, 2.6))
    for ax, metric in zip(figure.subplots(1, len(METRICS_SHOWN)), METRICS_SHOWN, strict=True):
        for i, rival in enumerate(rivals):
            color, marker = look(i)
            points = {step: _best(rival.results, step, evaluator, metric) for step in _steps(rival.results)}
            known = {step: value for step, value in points.items() if value}
            steps = list(known)
            ax.plot(
                steps,
                [v.estimate for v in known.values()],
                color=color,
                marker=marker,
                label=legend_label(rival.name),
            )
            ax.fill_between(
                steps,
                [v.lower for v in known.values()],
                [v.upper for v in known.values()],
                color=color,
                alpha=0.15,
                lw=0,
            )
        ax.axhline(0, color="black", lw=0.6)
        ax.set_xticks(sorted({step for rival in rivals for step in _steps(rival.results)}))
        ax.set_xlabel(material.step_text)
        ax.set_ylabel(METRICS[metric])
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), _IN_A_ROW))
    alt = (
        f"Two line charts over the denoising step for {evaluator_label(evaluator)}: the best probe of "
        f"{' and of '.join(rival.name for rival in rivals)}."
    )
    return Section("beside", "Side by side", _EXPLANATION, (Drawing("beside", alt, figure),))


def table(material: Material, rivals: list[Rival]) -> Table:
    """The best probe per step and every baseline, a column per experiment."""
    evaluator = material.choice.evaluators[0]
    steps = sorted({step for rival in rivals for step in _steps(rival.results)})
    rows: list[tuple[Field, ...]] = [
        (f"probe, step {step}", *(_best(rival.results, step, evaluator, "srcc_within") for rival in rivals))
        for step in steps
    ]
    step = material.choice.step
    rows += [
        (
            f"{model_label(model)}, step {step}",
            *(_best(rival.results, step, evaluator, "srcc_within", model) for rival in rivals),
        )
        for model in baselines_of(material.results)
    ]
    return Table(
        name="beside",
        title=f"{METRICS['srcc_within']} of {evaluator_label(evaluator)}",
        caption="Test split, unseen prompts of each experiment; the probe of each step was chosen on validation "
        "prompts. Brackets: 95 % interval over prompts.",
        columns=("", *(rival.name for rival in rivals)),
        rows=tuple(rows),
    )


def _steps(results: Results) -> list[int]:
    return steps_of(results, probes(results))


def _best(results: Results, step: int, evaluator: str, metric: str, model: str = "") -> Value | None:
    """Of the probe, or of one baseline, that validates best at a step."""
    variant = best_on_validation(results, [model] if model else probes(results), step, evaluator)
    return results.value(variant, evaluator, metric) if variant else None


def _backbone(results: Results) -> str:
    """The backbone that an experiment's cells were trained on, as its configuration names it."""
    written = results.written(results.cells["cell"].iloc[0])
    names = (written.get(key) for key in ("backbone", "backbone.name", "backbone.path"))
    return next((str(name) for name in names if name), results.folder.name)
