"""Probe-Select: its main table, and what happens when one thing at a time is changed."""

from __future__ import annotations

import json

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.report.analysis.chosen import best_on_validation, probes
from probe_lab.report.analysis.results import Variant
from probe_lab.report.layout.material import Drawing, Section
from probe_lab.report.layout.style import (
    GREY,
    MARKERS,
    PAGE,
    evaluator_label,
    look,
    loss_label,
    tap_labels,
    tap_order,
)
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.report.papers.prediction import lines_over_steps
from probe_lab.report.papers.shown import (
    CAUTION,
    Shown,
    candidates,
    labels,
    our_table,
    paper_table,
    picked,
    published,
    spread,
)

_EVALUATORS = ("clip_score", "pick_score", "blip_itm", "image_reward", "hps_v2_1")
_SWEET = 0.2
_PLATEAU = 50


def table_spearman(shown: Shown) -> Section:
    """Models × evaluators at a fifth of the trajectory."""
    key, variant = "ps_table_spearman", shown.probe()
    ours = [
        (f"{shown.model}, {what}", *(shown.value(variant, name, metric) for name in shown.evaluators))
        for what, metric in (("all images", "srcc"), ("within prompts", "srcc_within"))
    ]
    return Section(
        key,
        "Spearman by model and evaluator (Probe-Select)",
        "",
        tables=(
            published_spearman(key),
            our_table(
                key,
                f"{shown.model}, t = {shown.share(variant.step):.2g}",
                f"Step {variant.step} of {shown.steps}. The first row is what the paper reports, the second what "
                "remains where seeds of one prompt are compared.",
                ("model", *labels(shown.evaluators)),
                ours,
            ),
        ),
    )


def table_losses(shown: Shown) -> Section:
    """Objectives at one step: a row per loss and λ, a column per evaluator."""
    key, step, results = "ps_table_losses", shown.material.choice.step, shown.results
    cells = results.cells[results.cells["model"].isin(probes(results)) & (results.cells["step"] == step)]
    taps = shown.probe().taps
    found = [v for v in results.variants if v.taps == taps and cells["cell"].isin(results.seeds(v).values()).any()]
    found.sort(key=lambda variant: (variant.loss != "mse", variant.loss.count("+"), variant.loss, _weight(variant)))
    rows: list[tuple[Field, ...]] = []
    for variant in found:
        values = [shown.value(variant, name, "srcc") for name in shown.evaluators]
        weight = _weight(variant) if "infonce" in variant.loss else None
        within = shown.value(variant, shown.evaluators[0], "srcc_within")
        rows.append((loss_label(variant.loss), weight, *values, within))
    return Section(
        key,
        "Objectives (Probe-Select)",
        "",
        skipped=(
            "The rows of the paper's ablation: our reference has the numbers of its final objective, listwise + "
            f"InfoNCE with λ = {published()['probe_select']['notes']['lambda_align']}, alone.",
        ),
        tables=(
            published_spearman(key),
            our_table(
                key,
                f"{shown.model}, step {step} of {shown.steps}: SRCC by objective",
                f"λ weighs InfoNCE. Last column: {evaluator_label(shown.evaluators[0])} within prompts.",
                ("objective", "λ", *labels(shown.evaluators), "within prompts"),
                rows,
            ),
        ),
    )


def figure_gain(shown: Shown) -> Section:
    """How much the mean score rises with the number of candidates."""
    key, variant, most = "ps_figure_gain", shown.probe(), candidates(shown)
    counts = list(range(1, most + 1))
    figure = Figure(figsize=(PAGE * 0.62, 2.8))
    ax = figure.subplots()
    for i, evaluator in enumerate(shown.evaluators):
        unit = spread(shown, variant, evaluator) or 1.0
        points = [picked(shown, variant, evaluator, count) for count in counts]
        rise = [(point.chosen.estimate - point.random.estimate) / unit for point in points]
        color, marker = look(i)
        ax.plot(counts, rise, color=color, marker=marker, label=evaluator_label(evaluator))
    ax.axvline(_PLATEAU, color=GREY, ls="--", lw=1)
    ax.text(_PLATEAU, 0.02, "published plateau ", transform=ax.get_xaxis_transform(), ha="right", color=GREY)
    ax.set_xscale("log", base=2)
    ticks = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= max(most, 64)]
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.set_xlabel("candidates N")
    ax.set_ylabel("gain of the mean score, std. dev.")
    ax.legend(loc="upper left")
    plateau = published()["probe_select"]["notes"]["gain_plateau"]
    text = f"""Mean true score of the image that the probe keeps at step {variant.step} of {shown.steps}, minus that
of an average seed, in standard deviations of the score over all test images; every evaluator chooses by its own
prediction. Our prompts have {most} seeds. Dashed: where the paper's curves flatten ({plateau}), the one number of this
figure in our reference. {CAUTION}"""
    alt = f"Line chart of the gain of the mean score over 1 to {most} candidates, one line per evaluator."
    return Section(key, "Gain over the number of candidates (Probe-Select)", text, (Drawing(key, alt, figure),))


def figure_time(shown: Shown) -> Section:
    """Spearman over the share of the trajectory that has been run."""
    key = "ps_figure_time"
    figure = Figure(figsize=(PAGE, 2.7))
    theirs, over, within = figure.subplots(1, 3)
    for i, row in enumerate(published()["probe_select"]["spearman_t02"]):
        values = [float(row[name]) for name in _EVALUATORS]
        theirs.plot(
            [_SWEET] * len(values), values, ls="", color=GREY, marker=MARKERS[i], mfc="none", label=row["model"]
        )
    theirs.set_title("Probe-Select, five evaluators")
    theirs.set_ylabel("SRCC, all images")
    theirs.legend(loc="lower right")
    over.set_title(f"{shown.model}, all images")
    within.set_title(f"{shown.model}, within prompts")
    lines_over_steps(over, shown, "srcc", shares=True)
    lines_over_steps(within, shown, "srcc_within", shares=True)
    for ax in (theirs, over, within):
        ax.axvline(_SWEET, color=GREY, ls=":", lw=1, zorder=1)
        ax.set_xlim(0, max(0.42, 1.05 * shown.share(max(shown.probed))))
        ax.set_xlabel("share of the trajectory t")
    figure.legend(*over.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    finding = published()["probe_select"]["notes"]["sweet_spot"]
    text = f"""Left: what our reference has of the paper, at t = {_SWEET} (its finding: {finding}). Middle and right:
ours, over all images and among the seeds of one prompt; shaded: 95 % interval of the first evaluator. {CAUTION}"""
    alt = "Published points at t = 0.2, and two line charts of our rank correlation over the share of the trajectory."
    return Section(key, "When to probe (Probe-Select)", text, (Drawing(key, alt, figure),))


def figure_blocks(shown: Shown) -> Section:
    """Spearman per block at one step, from the first block of the denoiser to the last."""
    key, step, results = "ps_figure_blocks", shown.material.choice.step, shown.results
    models = probes(results)
    read = dict.fromkeys(v.taps for v in results.variants if v.step == step and v.model in models)
    chosen = {tap: best_on_validation(results, models, step, shown.evaluators[0], tap) for tap in read}
    found = {tap: variant for tap, variant in chosen.items() if variant}
    taps = sorted(found, key=tap_order)
    names = tap_labels(taps)
    figure = Figure(figsize=(PAGE, 0.9 + 0.3 * len(taps)))
    axes = figure.subplots(1, 2, sharey=True)
    for ax, metric, title in zip(axes, ("srcc", "srcc_within"), ("all images", "within prompts"), strict=True):
        for i, evaluator in enumerate(shown.evaluators):
            _dots(ax, shown, [found[tap] for tap in taps], evaluator, metric, i)
        ax.set_title(f"{shown.model}, {title}")
        ax.set_xlabel("SRCC")
    axes[0].set_yticks(range(len(taps)), [names[tap] for tap in taps])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    text = f"""Ours, step {step} of {shown.steps}: the probe of each block that validates best, dots with their 95 %
intervals. The table says which block the paper read; its numbers for the others are not in our reference. {CAUTION}"""
    alt = (
        f"Dots of the rank correlation for {', '.join(names[tap] for tap in taps)}, over all images and within prompts."
    )
    theirs = published()["probe_select"]["notes"]["blocks"]
    table = paper_table(key, "Probe-Select, block read", CAUTION, ("model", "block"), list(theirs.items()))
    return Section(key, "Which block to read (Probe-Select)", text, (Drawing(key, alt, figure),), tables=(table,))


def published_spearman(key: str) -> Table:
    """Models × evaluators at a fifth of the trajectory, as the paper prints them."""
    rows = published()["probe_select"]["spearman_t02"]
    return paper_table(
        key,
        f"Probe-Select, t = {_SWEET}",
        f"Its final objective. {CAUTION}",
        ("model", *labels(_EVALUATORS)),
        [(row["model"], *(float(row[name]) for name in _EVALUATORS)) for row in rows],
    )


def _dots(ax: Axes, shown: Shown, variants: list[Variant], evaluator: str, metric: str, i: int) -> None:
    places = [row + (i - (len(shown.evaluators) - 1) / 2) * 0.13 for row in range(len(variants))]
    values = [shown.value(variant, evaluator, metric) for variant in variants]
    at = [(place, value) for place, value in zip(places, values, strict=True) if value]
    color, marker = look(i)
    y = [place for place, _ in at]
    ax.hlines(y, [v.lower for _, v in at], [v.upper for _, v in at], color=color, lw=1)
    ax.plot([v.estimate for _, v in at], y, marker, color=color, label=evaluator_label(evaluator))


def _weight(variant: Variant) -> float:
    """λ of a variant; where the sweep does not vary it, the default of Probe-Select."""
    return float(json.loads(variant.extra).get("alignment", published()["probe_select"]["notes"]["lambda_align"]))
