"""One look for all figures: column widths, colours that colour-blind readers can tell apart, names for
people, files."""

from __future__ import annotations

import bisect
import contextlib
import copy
import functools
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from fontTools import subset
from fontTools.subset import load_font
from fontTools.ttLib import TTFont
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image

from probe_lab.console import visible
from probe_lab.fonts import families, needs_others
from probe_lab.losses import loss_text
from probe_lab.probes.kinds import recorded

COLUMN = 3.3
"""Width of one paper column, inches."""
PAGE = 6.9
"""Width of the text of a two-column paper, inches."""

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
LIGHT = "#BBBBBB"
DASH = "–"
"""What stands for a number that is not there."""

_STYLE_FILE = Path(__file__).with_name("probe_lab.mplstyle")
_DPI = 200
_SHAPING = {"GSUB", "GPOS", "GDEF", "MATH", "kern"}
"""Tables of a font."""

_EVALUATORS = {
    "image_reward": "ImageReward",
    "hps_v2": "HPSv2",
    "hps_v2_1": "HPSv2.1",
    "clip_score": "CLIPScore",
    "pick_score": "PickScore",
    "blip_itm": "BLIP-ITM",
    "blip_itc": "BLIP-ITC",
    "shapes_clip_score": "shapes CLIPScore",
}
METRICS = {
    "srcc": "SRCC, all images",
    "ktc": "KTC, all images",
    "pcc": "PCC, all images",
    "auc": "AUC-ROC",
    "srcc_within": "SRCC within prompts",
    "ktc_within": "KTC within prompts",
    "pcc_within": "PCC within prompts",
    "top1": "top-1 hit rate",
    "selection_gain": "selection gain",
    "ndcg": "NDCG",
}
_KINDS = {"attention": "attn", "activation": "act"}
# Containers that every name has add nothing to it; the others keep a short word.
_PATH_WORDS = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "mid",
    "attentions": "",
    "resnets": "res",
    "transformer_blocks": "block",
    "single_transformer_blocks": "single block",
}
_DEPTH = {"down": 0, "mid": 1, "up": 2, "latent": 4, "x0": 5, "lookahead": 6}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The style of this project; draw and save inside it. Leaves matplotlib's settings as they were.

    No text is mathematics. Matplotlib warns of every character without a sign at every measuring and drawing; it is
    silent here, and the page says it once (``fonts.missing``).
    """
    with warnings.catch_warnings(), mpl.style.context(["default", _STYLE_FILE, {"font.family": [*families()]}]):
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
        yield


def texts_of(figure: Figure) -> str:
    """All that is written in a figure."""
    return "".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def save_figure(figure: Figure, folder: Path, name: str, *, photographic: bool) -> tuple[Path, Path]:
    """Write ``name.pdf`` and ``name.png`` (200 dpi) to ``folder``; the bytes depend on the figure alone.

    A chart's PNG is reduced to a palette of 256 colours (a third of the bytes, no visible change); one
    that shows pictures (``photographic``) is not.
    """
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    # Both are drawn once. Figure.savefig draws twice, to lay out and to save, and encodes a PNG that is decoded again.
    figure.dpi = _DPI
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    figure.set_layout_engine("none")  # what was laid out once stays so
    # Fonts of other scripts often have PostScript outlines, which a PDF takes as drawings (Type 3) only.
    kind = 3 if needs_others(texts_of(figure)) else mpl.rcParams["pdf.fonttype"]
    with mpl.rc_context({"pdf.fonttype": kind}), _fonts_read_once():
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    if not photographic:
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(png)  # `optimize` takes five times as long for a twelfth of the bytes
    return pdf, png


@contextlib.contextmanager
def _fonts_read_once() -> Iterator[None]:
    """Matplotlib cuts each font down to a figure's characters, from the file; here, from what was read of it before."""

    def load(file: str, options: subset.Options) -> TTFont:
        font = _font(str(file), options.font_number)
        fresh = copy.copy(font)
        fresh.tables = {tag: copy.copy(table) for tag, table in font.tables.items()}
        fresh["cmap"].tables = [copy.copy(table) for table in font["cmap"].tables]
        return fresh

    subset.load_font = load
    try:
        yield
    finally:
        subset.load_font = load_font


@functools.lru_cache(maxsize=8)
def _font(file: str, number: int) -> TTFont:
    """With all tables in memory but those that say how glyphs combine: a PDF places every glyph by itself."""
    options = subset.Options()
    options.font_number = number
    font = load_font(file, options)
    for tag in _SHAPING & {*font.keys()}:
        del font[tag]
    font.ensureDecompiled(recurse=False)
    for table in font["cmap"].tables:
        table.ensureDecompiled()
    return font


def number_text(value: float, digits: int = 2, *, plus: bool = False) -> str:
    """``-0.5`` -> "−0.50" with a real minus, never "−0.00"; nan -> "–"; ``plus``: positive numbers have a sign too."""
    if math.isnan(value):
        return DASH
    rounded = round(value, digits) + 0.0  # adding 0.0 turns -0.0 into 0.0
    return f"{rounded:{'+' if plus else ''}.{digits}f}".replace("-", "−")


def ink(background: tuple[float, float, float, float]) -> str:
    """Colour of text that is read on this one (red, green, blue, alpha in 0…1)."""
    red, green, blue, _ = background
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def fitted(text: str, points: float, size: float) -> str:
    """A user's text as one line of at most ``points`` (1/72 inch) at a font size, with an ellipsis where it is longer;
    control characters are written out. Use it inside ``drawing``."""
    line = " ".join(visible(text).split())
    shown = line[: 2 * int(points) + 1]  # no letter is narrower than half a point, and a text may be a book
    if shown == line and _width(line, size) <= points:
        return line
    count = bisect.bisect_right(range(len(shown)), points, key=lambda end: _width(shown[:end] + "…", size))
    return shown[: max(count - 1, 0)].rstrip() + "…"


def _width(text: str, size: float) -> float:
    """In points."""
    font = FontProperties(family=[*families()], size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def look(i: int) -> tuple[str, str]:
    """Colour and marker of line ``i``: the first seven differ in both, the first 49 in one of them."""
    return OKABE_ITO[i % len(OKABE_ITO)], MARKERS[(i + i // len(OKABE_ITO)) % len(MARKERS)]


def legend_label(text: str) -> str:
    """The name of a line, shown in its legend: matplotlib leaves out those that begin with an underscore."""
    return f" {text}" if text.startswith("_") else text


def evaluator_label(name: str) -> str:
    """``shapes_reward`` -> "shapes reward"; models of the literature get the spelling of their papers.

    ``clip_score@large``, one of several of a kind, -> "CLIPScore (large)".
    """
    kind, *labels = name.split("@")
    text = _EVALUATORS.get(kind, kind.rpartition(":")[2].replace("_", " "))
    return f"{text} ({', '.join(labels)})" if labels else text


def model_label(name: str) -> str:
    return recorded(name).label


def loss_label(name: str) -> str:
    """``listwise+infonce`` -> "listwise + InfoNCE"."""
    return loss_text(name) if name else DASH


def tap_label(tap: str) -> str:
    """``up_blocks.1.attentions.0/attention`` -> "up 1.0 attn"; several taps joined by "+" stay joined."""
    if "+" in tap:
        return " + ".join(tap_label(part) for part in tap.split("+"))
    path, _, kind = tap.rpartition("/")
    if not path:
        return tap or DASH
    return f"{_path_label(path)} {_KINDS.get(kind, kind)}"


def tap_labels(taps: Iterable[str]) -> dict[str, str]:
    """Labels of several taps; two taps that would read the same keep their full names."""
    labels = {tap: tap_label(tap) for tap in taps}
    texts = list(labels.values())
    return {tap: label if texts.count(label) == 1 else tap for tap, label in labels.items()}


def tap_order(tap: str) -> tuple[int, int, list[int], str]:
    """Sort key: single taps before joined ones, then from the first block of a denoiser to the last, then
    by kind."""
    first = tap_label(tap.split("+")[0]).split(" ")[0]
    numbers = [int(number) for number in re.findall(r"\d+", tap.rpartition("/")[0])]
    return tap.count("+"), _DEPTH.get(first, 3), numbers, tap


def _path_label(path: str) -> str:
    words: list[str] = []
    for part in path.split("."):
        if part.isdigit() and words and words[-1][-1].isdigit():
            words[-1] += f".{part}"
        elif (word := _PATH_WORDS.get(part, part)) and not (word == "block" and words):
            words.append(word)
    return " ".join(words)
