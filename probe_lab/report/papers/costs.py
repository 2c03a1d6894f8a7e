"""Probe-Select's cost formula, and what each step costs and gives."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.report.layout.material import Drawing, Section
from probe_lab.report.layout.style import GREY, OKABE_ITO, PAGE, evaluator_label, look
from probe_lab.report.layout.table_forms import Field
from probe_lab.report.papers.shown import (
    CAUTION,
    OF,
    Shown,
    candidates,
    cost,
    gain,
    labels,
    our_table,
    paper_table,
    published,
)

_SHARES = (0.05, 0.1, 0.2, 0.4)
_MOST = 20
_FORMULA = "η + (1 − η) K/N"


def figure_cost(shown: Shown) -> Section:
    """Left: the formula. Right: the gain of our probes over their cost, a point per step."""
    key, count = "ps_figure_cost", min(OF, candidates(shown))
    figure = Figure(figsize=(PAGE, 2.8))
    formula, ours = figure.subplots(1, 2)
    _formula(formula)
    costs = [cost(shown.share(step), 1, count, shown.ahead(shown.probe(step))) for step in shown.probed]
    gains = [[gain(shown, shown.probe(step), name, [count])[0] for name in shown.evaluators] for step in shown.probed]
    rows: list[tuple[Field, ...]] = [
        (step, shown.share(step), price, *found) for step, price, found in zip(shown.probed, costs, gains, strict=True)
    ]
    for i, evaluator in enumerate(shown.evaluators):
        color, marker = look(i)
        y = [found[i].estimate for found in gains]
        ours.plot(costs, y, color=color, marker=marker, label=evaluator_label(evaluator))
    ours.axhline(0, color="black", lw=0.6)
    ours.set_title(f"{shown.model}, one of {count}")
    ours.set_xlabel(f"cost, {_FORMULA}")
    ours.set_ylabel("selection gain (0 = random, 1 = oracle)")
    figure.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    text = f"""Left: {_FORMULA} for K = 1, the share of the compute of finishing all N; the ring is the published
example. Right: ours, each point a probed step: further right costs more. The formula counts denoiser calls, as the
paper does, and one more for every candidate of a probe that reads a lookahead; the probe itself, decodes and
evaluators are not in it. {CAUTION}"""
    alt = "The cost formula over the number of candidates, and our selection gain over the cost of each step."
    return Section(
        key,
        "Cost of choosing early (Probe-Select)",
        text,
        (Drawing(key, alt, figure),),
        tables=(
            paper_table(
                key,
                "Probe-Select, cost",
                "A formula, so comparable.",
                ("η", "K", "N", "cost"),
                [(0.2, 1, 5, _published())],
            ),
            our_table(
                key,
                f"{shown.model}, one of {count}: selection gain",
                "Cost by the same formula, and 1/steps more where the probe of a step reads a lookahead.",
                ("step", "η", "cost", *labels(shown.evaluators)),
                rows,
            ),
        ),
    )


def _formula(ax: Axes) -> None:
    counts = range(1, _MOST + 1)
    for i, share in enumerate(_SHARES):
        ax.plot(counts, [cost(share, 1, n) for n in counts], color=OKABE_ITO[i], label=f"η = {share:g}")
    ax.plot([OF], [_published()], "o", color=GREY, mfc="none", ms=7, label="published")
    ax.set_title(f"{_FORMULA}, K = 1")
    ax.set_xlabel("candidates N")
    ax.set_ylabel("cost over finishing all")
    ax.set_ylim(0, 1.05)
    ax.set_xticks([1, *range(5, _MOST + 1, 5)])
    ax.legend(ncols=2)


def _published() -> float:
    """0.36, which the note of the reference states in words."""
    text = str(published()["probe_select"]["notes"]["cost_ratio"])
    return float(text.split("=")[1].split()[0])
