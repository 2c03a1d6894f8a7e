"""Which tap should I use: the answer of ``tap_choice`` in a sentence, a figure and tables."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from probe_lab.report.analysis.chosen import SELECTION_METRIC, extra_text
from probe_lab.report.analysis.results import Value, Variant
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import (
    GREY,
    LIGHT,
    METRICS,
    OKABE_ITO,
    PAGE,
    evaluator_label,
    loss_label,
    model_label,
    tap_labels,
)
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.report.sections.tap_choice import Guide, ReadingPlace, SelectionCalls, guides, selection_of

TITLE = "Which tap should I use?"

_EXPLANATION = """A candidate is a step with what is read there, taps and scores of previews or lookaheads, in the
training that validates best there (loss and other keys may differ). It is as good as the best when the 95 % interval of
what it is behind the best includes 0 and its own interval is above 0: the paired difference of their within-prompt SRCC
of {evaluator} on the same {prompts} validation prompts, mean over training seeds.{seeds} Among those the cheapest is
named: fewest denoiser calls of the whole selection first ({selection}), then arrays alone before scores of previews and
lookaheads (each a decode and a run of its evaluator for every seed), then the smaller array per image, then the probe
with fewer parameters. None is named where no candidate is known to rank better than chance, all of them considered
(the lowest p, times the number of trainings that a candidate was the best of, and adjusted by Holm, is 0.05 or more).
Filled points are as good as the best, hollow ones are not; whiskers are their own 95 % intervals, which overlap more
readily than the difference says. Everything is decided on validation prompts; the test numbers beside them played no
part. The best of many candidates is partly lucky on validation, so look at the test column too. Few prompts make wide
intervals, and wide intervals make cheap recommendations: with more prompts a later step may turn out better.{missing}
Suspicious would be a recommended step 1, or candidates as good as the best at every step."""

_ONE_SEED = """ With one training seed the intervals are about other prompts alone: another training of the same probe
may differ by more than two taps do."""


def section(material: Material) -> Section:
    """The answer in one sentence, a figure and tables, or the reason why there is none."""
    evaluator = material.choice.evaluators[0]
    answers = guides(material)
    found = answers.get(evaluator)
    if found is None:
        text = f"No probe has a validation {METRICS[SELECTION_METRIC]} of {evaluator_label(evaluator)}."
        return Section("guide", TITLE, "", skipped=(text,))
    text = _EXPLANATION.format(
        evaluator=evaluator_label(evaluator),
        prompts=found.prompts,
        seeds="" if found.seeds > 1 else _ONE_SEED,
        selection=_selection_text(selection_of(material)),
        missing=_missing(found.candidates),
    )
    recommended = f"the recommended one is {_place(found.pick)}" if found.pick else "validation recommends none"
    alt = (
        f"Within-prompt SRCC on validation of {len(found.candidates)} candidates over their step, with intervals; "
        f"{recommended}, the best is {_place(found.best)}."
    )
    drawing = Drawing("tap_guide", alt, _draw(material, found))
    tables = (_answers(material, answers), _table(material, evaluator, found))
    return Section("guide", TITLE, text, (drawing,), tables=tables, lead=_lead(material, evaluator, found))


def _lead(material: Material, evaluator: str, found: Guide) -> str:
    pick, best = found.pick, found.best
    name = evaluator_label(evaluator)
    if pick is None:
        return (
            f"For {name}, validation cannot tell which tap to use: on {found.prompts} prompts no candidate is known to "
            f"rank better than chance (the lowest p of {len(found.candidates)} is {found.p:.2g}, by Holm). The highest "
            f"SRCC, of {_place(best)}, is {_interval(best.validation)}. More validation prompts would tell."
        )
    text = f"For {name}, use {_place(pick)}: "
    if pick is best:
        others = [candidate for candidate in found.candidates if candidate.cost.key < pick.cost.key]
        text += "it validates best of all" + (", and no cheaper candidate is as good." if others else ".")
    else:
        text += (
            f"it is the cheapest candidate that validates as well as the best ({_place(best)}), within the 95 % "
            f"interval of their difference."
        )
    if (selection := selection_of(material)) and pick.cost.selection:
        whole = selection.candidates * selection.steps
        text += (
            f" Choosing {selection.keep} of {selection.candidates} with it takes {pick.cost.selection} denoiser calls "
            f"instead of {whole}."
        )
    if pick.reads.needs:
        text += f" For every seed it takes {pick.reads.needs} beside the denoiser calls up to its step."
    test = material.results.value(pick.variant, evaluator, SELECTION_METRIC)
    if test:
        text += f" On unseen test prompts it ranks seeds with SRCC {_interval(test)}"
        top = material.results.value(best.variant, evaluator, SELECTION_METRIC)
        text += f"; the best on validation has {_interval(top)} there." if top and pick is not best else "."
    return text + _stronger(material, evaluator, pick)


def _stronger(material: Material, evaluator: str, pick: ReadingPlace) -> str:
    """A sentence on the baselines that validate better than the pick, at their own cost."""
    found = []
    for variant in material.choice.baselines.values():
        if material.results.estimate(variant, evaluator, SELECTION_METRIC, "val") > pick.validation.estimate:
            found.append(f"{model_label(variant.model)} at step {variant.step}")
    return f" Baselines that validate better than it, at other costs: {', '.join(found)}." if found else ""


def _missing(candidates: Sequence[ReadingPlace]) -> str:
    text = ""
    if any(candidate.cost.size is None for candidate in candidates):
        text += " The report was made without the cache: sizes of arrays are not known and do not count."
    if any(candidate.cost.parameters is None for candidate in candidates):
        text += " Cells without probe.safetensors have no number of parameters, which then does not count."
    return text


def _draw(material: Material, found: Guide) -> Figure:
    figure = Figure(figsize=(PAGE, 2.7))
    ax = figure.subplots()
    steps = sorted({candidate.variant.step for candidate in found.candidates})
    for step in steps:
        here = [candidate for candidate in found.candidates if candidate.variant.step == step]
        for i, candidate in enumerate(here):
            at = steps.index(step) + (i - (len(here) - 1) / 2) * min(0.16, 0.7 / len(here))
            value = candidate.validation
            color = OKABE_ITO[0] if candidate.as_good else GREY
            ax.vlines(at, value.lower, value.upper, color=color if candidate.as_good else LIGHT, lw=1, zorder=2)
            face = color if candidate.as_good else "white"
            ax.plot(at, value.estimate, "o", color=color, mfc=face, ms=4, zorder=3)
            if found.pick is candidate:
                ax.plot(at, value.estimate, "o", color=OKABE_ITO[1], mfc="none", ms=9, mew=1.4, zorder=4)
            if candidate is found.best:
                ax.plot(at, value.estimate, "k_", ms=11, mew=1.2, zorder=4)
    ax.axhline(found.best.validation.estimate, color="black", lw=0.6, ls=":", zorder=1)
    ax.axhline(0, color="black", lw=0.6, zorder=1)
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    ax.set_xlabel(f"{material.step_text}; within a step the cheapest first")
    ax.set_ylabel(f"{METRICS[SELECTION_METRIC]}, validation")
    ax.grid(axis="x", visible=False)
    marks = {
        "as good as the best": {"marker": "o", "color": OKABE_ITO[0]},
        "not as good": {"marker": "o", "color": GREY, "mfc": "white"},
        f"use this: {_place(found.pick) if found.pick else 'validation cannot tell'}": {
            "marker": "o",
            "color": OKABE_ITO[1],
            "mfc": "none",
            "ms": 7,
            "mew": 1.4,
        },
        f"best: {_place(found.best)}": {"marker": "_", "color": "black", "ms": 9},
    }
    for label, style in marks.items():
        ax.plot([], [], ls="", label=label, **style)  # type: ignore[arg-type]
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _answers(material: Material, answers: dict[str, Guide]) -> Table:
    rows: list[tuple[Field, ...]] = []
    for evaluator, found in answers.items():
        test = [
            material.results.value(candidate.variant, evaluator, SELECTION_METRIC) if candidate else None
            for candidate in (found.pick, found.best)
        ]
        good = sum(candidate.as_good for candidate in found.candidates)
        use = _place(found.pick) if found.pick else "validation cannot tell"
        uses = (use, test[0], _place(found.best), test[1])
        behind = found.pick.behind if found.pick else None
        rows.append((evaluator_label(evaluator), *uses, behind, f"{good} of {len(found.candidates)}", found.prompts))
    return Table(
        "tap_guide",
        "What to use, for each evaluator",
        "Chosen on validation prompts; the SRCC within prompts beside each choice is that of the test split. Behind: "
        "the best minus the recommended one on validation. Brackets: 95 % interval, paired for the difference.",
        ("evaluator", "use", "its test SRCC", "best on validation", "its test SRCC then", "behind", "as good",
         "validation prompts"),
        tuple(rows),
    )  # fmt: skip


def _table(material: Material, evaluator: str, found: Guide) -> Table:
    labels = tap_labels(candidate.variant.taps for candidate in found.candidates)
    rows: list[tuple[Field, ...]] = [
        (
            candidate.reads.text(labels[candidate.variant.taps]),
            candidate.variant.step,
            candidate.cost.calls,
            candidate.cost.evaluators,
            candidate.cost.size,
            candidate.cost.parameters,
            candidate.validation,
            candidate.behind,
            "yes" if candidate.as_good else "no",
            material.results.value(candidate.variant, evaluator, SELECTION_METRIC),
            _training(candidate.variant),
            candidate.cost.selection,
        )
        for candidate in found.candidates
    ]
    return Table(
        "tap_guide_candidates",
        f"All candidates for {evaluator_label(evaluator)}, the cheapest first",
        f"Cost: denoiser calls of the whole selection ({_selection_text(selection_of(material))}), of which those "
        "for every seed stand beside the step (one more for a lookahead), then runs of evaluators on decoded previews "
        "and lookaheads for every seed, then bytes of the arrays per image as the cache stores them, "
        "then trained parameters of the probe. Behind: SRCC within prompts of the best candidate minus this one, "
        "paired, on validation; as good: that interval includes 0. The marked row is recommended.",
        ("reads", "step", "calls", "evaluator runs", "bytes per image", "parameters", "validation", "behind",
         "as good", "test", "training", "calls of the selection"),
        tuple(rows),
        long=True,
        highlight=found.candidates.index(found.pick) if found.pick else None,
    )  # fmt: skip


def _selection_text(selection: SelectionCalls | None) -> str:
    if selection is None:
        return "not known without the cache; by the step then"
    n, k, steps = selection.candidates, selection.keep, selection.steps
    return f"N to the step, with a lookahead one more each, and K to the end: N = {n}, K = {k}, {steps} steps"


def _training(variant: Variant) -> str:
    extra = extra_text(variant.extra) if variant.extra != "{}" else ""
    return ", ".join(part for part in (loss_label(variant.loss), extra) if part)


def _place(candidate: ReadingPlace) -> str:
    return f"step {candidate.variant.step}, {candidate.reads.text()}"


def _interval(value: Value) -> str:
    return f"{value.estimate:.2f} [{value.lower:.2f}, {value.upper:.2f}]".replace("-", "−")
