"""The contact sheet: every candidate of every prompt, what was predicted of it, what became of it, and what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from probe_lab.cache.faults import FAULT_WORDS
from probe_lab.console import visible
from probe_lab.fonts import file_for
from probe_lab.selection.candidates import Candidate, PromptCandidates

TILE, GAP, PER_LINE = 160, 14, 8
_MARGIN, _LINE, _FRAME = 18, 17, 4
_INK, _QUIET, _PAPER, _EMPTY = "#1b1b1b", "#6b6b6b", "#ffffff", "#d9d9d9"
_KEPT = "#00795b"
"""The green of the report's figures, dark enough for text on white."""
Labels = Mapping[str, str]


def contact_sheet(rows: Sequence[PromptCandidates], evaluators: Sequence[str], title: str) -> Image.Image:
    """Kept images have a green frame and come first; then the pruned ones, as far as they got.

    Below each stand its candidate number and seed, and for every one of ``evaluators`` the predicted score and, behind
    an arrow, the true one of a finished image that was scored.
    """
    across = max(_across(row) for row in rows)
    width = max(2 * _MARGIN + across * (TILE + GAP) - GAP, 460)
    labels = labels_of(evaluators)
    blocks = [_block(row, labels, width) for row in rows]
    head = _wrapped(title, width, 12)
    height = 2 * _MARGIN + len(head) * _LINE + sum(block.height for block in blocks)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for line in head:
        draw.text((_MARGIN, top), line, fill=_QUIET, font=_font_for(title, 12))
        top += _LINE
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def title_of(rows: Sequence[PromptCandidates], content: Mapping[str, Any], evaluators: Sequence[str]) -> str:
    """What stands above the sheet: which scores, what they cost, and who predicted them."""
    scored = any(one.true for row in rows for one in row.candidates)
    cells = ", ".join(probe["cell"] for probe in content["probes"])
    calls, of = content["denoiser_calls"], content["denoiser_calls_of_all"]
    previews = any(one.preview for row in rows for one in row.candidates)
    unscaled = unscaled_of(rows, evaluators)
    what = "predicted order" if unscaled else "predicted → true" if scored else "predicted"
    text = f"{', '.join(evaluators)}: {what}. {calls} of {of} denoiser calls. "
    text += f"{order_note(unscaled)} " if unscaled else ""
    return text + ("Pruned ones: what their last step leads to. " if previews else "") + cells


def _block(row: PromptCandidates, labels: Labels, width: int) -> Image.Image:
    head = _wrapped(row.prompt, width, 14)
    tile = TILE + _LINE * (2 + len(labels)) + GAP
    across = _across(row)
    lines = -(-len(row.candidates) // across)
    top = GAP + len(head) * (_LINE + 2) + 4
    block = Image.new("RGB", (width, top + lines * tile), _PAPER)
    draw = ImageDraw.Draw(block)
    for place, line in enumerate(head):
        draw.text((_MARGIN, GAP + place * (_LINE + 2)), line, fill=_INK, font=_font_for(row.prompt, 14))
    for place, one in enumerate(row.candidates):
        left = _MARGIN + place % across * (TILE + GAP)
        _tile(block, draw, (left, top + place // across * tile), one, labels)
    return block


def _across(row: PromptCandidates) -> int:
    """Candidates in a line, so that all lines are about as long."""
    lines = -(-len(row.candidates) // PER_LINE)
    return -(-len(row.candidates) // lines)


def _tile(block: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], one: Candidate, labels: Labels) -> None:
    left, top = at
    kept = one.place is not None
    box = (left, top, left + TILE - 1, top + TILE - 1)
    draw.rectangle(box, fill=_PAPER, outline=_KEPT if kept else _EMPTY, width=_FRAME if kept else 1)
    inside = TILE - 2 * _FRAME
    if one.image is None:
        draw.rectangle((left + _FRAME, top + _FRAME, box[2] - _FRAME, box[3] - _FRAME), fill=_EMPTY)
    else:
        picture = _fitted(one.image, inside)
        block.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
    y = box[3] + 4
    for line, colour in _captions(one, labels):
        draw.text((left, y), line, fill=colour, font=_font_for(line, 12))
        y += _LINE


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """As large as the box allows; a small one is enlarged without a blur that it does not have."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _captions(one: Candidate, labels: Labels) -> list[tuple[str, str]]:
    kept = one.place is not None
    state = f"{one.number}: kept" if kept else f"{one.number}: pruned at step {one.pruned}"
    lines = [(state, _KEPT if kept else _QUIET), (f"seed {one.seed}", _QUIET)]
    if one.fault is not None:
        return [*lines, (FAULT_WORDS[one.fault], _INK)]
    for name, label in labels.items():
        lines.append((f"{score_text(one, name)}  {label}", _INK if kept else _QUIET))
    return lines


def score_text(one: Candidate, evaluator: str) -> str:
    """``0.943 → 0.969``: the predicted score and, where there is one, the true one.

    ``-0.213 (order), true 0.969`` where what is predicted has not the units of the true one.
    """
    scaled = evaluator not in one.unscaled
    text = f"{one.predicted[evaluator]:.3f}" + ("" if scaled else " (order)")
    if evaluator not in one.true:
        return text
    return f"{text} → {one.true[evaluator]:.3f}" if scaled else f"{text}, true {one.true[evaluator]:.3f}"


def unscaled_of(rows: Sequence[PromptCandidates], evaluators: Sequence[str]) -> list[str]:
    """Those of ``evaluators`` of which the order alone was predicted."""
    unscaled = {name for row in rows for one in row.candidates for name in one.unscaled}
    return [name for name in evaluators if name in unscaled]


def order_note(unscaled: Sequence[str]) -> str:
    """A sentence on predictions without units; "" where all have theirs."""
    if not unscaled:
        return ""
    return (
        f"The predictions of {', '.join(unscaled)} have no units, only their order counts: on validation images no "
        "rising line leads from them to true scores."
    )


def labels_of(evaluators: Sequence[str], length: int = 11) -> Labels:
    """Short names: none for a single evaluator, and without the word that all of them begin with."""
    if len(evaluators) < 2:
        return dict.fromkeys(evaluators, "")
    heads = {name.partition("_")[0] for name in evaluators}
    ends = [name.partition("_")[2] if len(heads) == 1 else name for name in evaluators]
    return {name: (end or name)[:length] for name, end in zip(evaluators, ends, strict=True)}


def _wrapped(text: str, width: int, size: int) -> list[str]:
    """Lines of at most so many pixels at a font size; a word that is longer goes on in the next line."""
    room, font = width - 2 * _MARGIN, _font_for(text, size)
    lines = [""]
    for word in visible(text).split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line] or [""]


def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    return _font(file_for(visible(text)), size)


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
