"""Diffusion Probe: how well the score is predicted, by model, step and evaluator."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.material import Drawing, Section
from probe_lab.report.layout.style import GREY, MARKERS, PAGE, evaluator_label, look
from probe_lab.report.layout.table_forms import Field
from probe_lab.report.papers.shown import CAUTION, Shown, our_table, paper_table, published

_METRICS = {"srcc": "SRCC", "auc": "AUC-ROC", "ktc": "KTC", "pcc": "PCC"}
_PAPERS_NAME = {"auc": "auc_roc"}
_OURS_ALONE = "The last column is ours alone: what remains where seeds of one prompt are compared."


def table_prediction(shown: Shown) -> Section:
    """Rows: model × step, with one row of ours per step."""
    evaluator = shown.evaluators[0]
    ours = [
        (shown.model, step, *_ours(shown, step, evaluator), _within(shown, step, evaluator)) for step in shown.probed
    ]
    key = "dp_table_prediction"
    return Section(
        key,
        "Prediction by model and step (Diffusion Probe)",
        "",
        tables=(
            paper_table(
                key,
                "Diffusion Probe",
                f"ImageReward of 5 000 MS-COCO captions, 25 steps. {CAUTION}",
                ("model", "step", *_METRICS.values()),
                [(row["model"], row["step"], *_theirs(row)) for row in _published()],
            ),
            our_table(
                key,
                f"{shown.model}, {evaluator_label(evaluator)}",
                f"{shown.steps} steps. {_OURS_ALONE}",
                ("model", "step", *_METRICS.values(), "SRCC within prompts"),
                ours,
            ),
        ),
    )


def table_metrics(shown: Shown) -> Section:
    """Rows: evaluators, at one step."""
    step, key = shown.material.choice.step, "dp_table_metrics"
    theirs = [(row["model"], "ImageReward", *_theirs(row)) for row in _published() if row["step"] == 5]
    ours = [
        (shown.model, evaluator_label(name), *_ours(shown, step, name), _within(shown, step, name))
        for name in shown.evaluators
    ]
    columns = ("model", "evaluator", *_METRICS.values())
    return Section(
        key,
        "Prediction by evaluator (Diffusion Probe)",
        "",
        skipped=("The paper's other evaluators: our reference of published numbers has ImageReward alone.",),
        tables=(
            paper_table(key, "Diffusion Probe, step 5 of 25", CAUTION, columns, theirs),
            our_table(
                key,
                f"{shown.model}, step {step} of {shown.steps}",
                _OURS_ALONE,
                (*columns, "SRCC within prompts"),
                ours,
            ),
        ),
    )


def figure_steps(shown: Shown) -> Section:
    """SRCC over steps: the papers' models, our evaluators, and the latter among seeds of one prompt."""
    figure = Figure(figsize=(PAGE, 2.7))
    theirs, over, within = figure.subplots(1, 3)
    models = list(dict.fromkeys(row["model"] for row in _published()))
    for i, model in enumerate(models):
        rows = [row for row in _published() if row["model"] == model]
        theirs.plot(
            [r["step"] for r in rows], [r["srcc"] for r in rows], color=GREY, marker=MARKERS[i], ls="--", label=model
        )
    theirs.legend(loc="lower right")
    theirs.set_title("Diffusion Probe, ImageReward")
    theirs.set_ylabel("SRCC, all images")
    theirs.set_xlabel("denoiser call (of 25)")
    theirs.set_xticks(sorted({row["step"] for row in _published()}))
    over.set_title(f"{shown.model}, all images")
    within.set_title(f"{shown.model}, within prompts")
    for ax, metric in ((over, "srcc"), (within, "srcc_within")):
        lines_over_steps(ax, shown, metric)
        ax.set_xlabel(f"denoiser call (of {shown.steps})")
        ax.set_xticks(shown.probed)
    figure.legend(*over.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    text = f"""Left: published. Middle: ours, the same number of our evaluators. Right: the same among the seeds of
one prompt, which the paper, with one image per prompt, could not ask. Shaded: 95 % interval of the first evaluator.
{CAUTION}"""
    alt = "Three line charts of the rank correlation over the denoising step: published, ours over all images, ours \
within prompts."
    return Section(
        "dp_figure_steps",
        "Prediction over the steps (Diffusion Probe)",
        text,
        (Drawing("dp_figure_steps", alt, figure),),
    )


def lines_over_steps(ax: Axes, shown: Shown, metric: str, *, shares: bool = False) -> None:
    """A line per evaluator over the probed steps, or over their shares of the trajectory."""
    steps = shown.probed
    x = [shown.share(step) if shares else step for step in steps]
    for i, evaluator in enumerate(shown.evaluators):
        values = [shown.value(shown.probe(step), evaluator, metric) for step in steps]
        at = [(place, value) for place, value in zip(x, values, strict=True) if value]
        color, marker = look(i)
        places = [place for place, _ in at]
        ax.plot(places, [v.estimate for _, v in at], color=color, marker=marker, label=evaluator_label(evaluator))
        if i == 0:
            lower, upper = [v.lower for _, v in at], [v.upper for _, v in at]
            ax.fill_between(places, lower, upper, color=color, alpha=0.13, lw=0)


def _published() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = published()["diffusion_probe"]["prediction"]
    return rows


def _theirs(row: dict[str, Any]) -> list[Field]:
    return [float(row[_PAPERS_NAME.get(name, name)]) for name in _METRICS]


def _ours(shown: Shown, step: int, evaluator: str) -> list[Value | None]:
    return [shown.value(shown.probe(step), evaluator, name) for name in _METRICS]


def _within(shown: Shown, step: int, evaluator: str) -> Value | None:
    return shown.value(shown.probe(step), evaluator, "srcc_within")
