"""Names for people, and figures whose bytes depend on nothing but the figure."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path

import matplotlib as mpl
import pytest
from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure

from probe_lab.report.layout.style import (
    PAGE,
    drawing,
    evaluator_label,
    loss_label,
    number_text,
    save_figure,
    tap_label,
    tap_labels,
    tap_order,
)


@pytest.mark.parametrize(
    ("tap", "label"),
    [
        ("up_blocks.1.attentions.0/attention", "up 1.0 attn"),
        ("down_blocks.0.resnets.1/activation", "down 0 res 1 act"),
        ("mid_block.attentions.0/attention", "mid 0 attn"),
        ("up_blocks.2/activation", "up 2 act"),
        ("transformer_blocks.20/attention", "block 20 attn"),
        ("single_transformer_blocks.3/activation", "single block 3 act"),
        ("up_blocks.1.attentions.0.transformer_blocks.2/attention", "up 1.0.2 attn"),
        ("latent", "latent"),
        ("x0", "x0"),
        ("up_blocks.1.attentions.0/attention+x0", "up 1.0 attn + x0"),
        ("", "–"),
    ],
)
def test_tap_label(tap: str, label: str) -> None:
    assert tap_label(tap) == label


def test_taps_that_would_read_the_same_keep_their_names() -> None:
    taps = ["up_blocks.1.attentions.0/attention", "up_blocks.1.0/attention", "x0"]
    assert tap_labels(taps) == {taps[0]: taps[0], taps[1]: taps[1], "x0": "x0"}


def test_taps_are_ordered_by_depth() -> None:
    order = [
        "down_blocks.1.attentions.0/attention",
        "mid_block.attentions.0/attention",
        "up_blocks.1.attentions.0/attention",
        "up_blocks.10.attentions.0/attention",
        "latent",
        "x0",
        "down_blocks.1.attentions.0/attention+x0",
    ]
    mixed = order[3:] + order[:3]
    assert sorted(mixed, key=tap_order) == order


def test_other_names() -> None:
    assert evaluator_label("shapes_reward") == "shapes reward"
    assert evaluator_label("hps_v2_1") == "HPSv2.1"
    assert evaluator_label("clip_score@large") == "CLIPScore (large)"
    assert evaluator_label("clip_score@b_16@0a1b") == "CLIPScore (b_16, 0a1b)"
    assert loss_label("listwise+infonce") == "listwise + InfoNCE"
    assert [loss_label(name) for name in ("margin", "lambdarank", "spearman")] == ["hinge", "LambdaRank", "Spearman"]


def test_numbers_have_a_real_minus_and_no_negative_zero() -> None:
    numbers = [-0.5, 0.126, -0.001, float("nan")]
    assert [number_text(value) for value in numbers] == ["−0.50", "0.13", "0.00", "–"]
    assert [number_text(value, 3, plus=True) for value in numbers] == ["−0.500", "+0.126", "−0.001", "–"]


def test_saved_figures_are_reproducible_and_leave_no_settings(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    saved = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with drawing():
            other = Figure(figsize=(1, 1))
            other.text(0, 0, f"of other characters: {name.upper()}")
            save_figure(other, tmp_path, name, photographic=False)
            figure = Figure(figsize=(PAGE, 2))
            ax = figure.subplots()
            ax.plot([1, 2, 3], [3, 1, 2], label="x")
            ax.legend()
            saved.append([p.read_bytes() for p in save_figure(figure, tmp_path / name, "f", photographic=False)])
    assert saved[0] == saved[1]
    assert saved[0][0].startswith(b"%PDF")
    assert dict(mpl.rcParams) == before


def test_fonts_of_a_pdf_have_their_glyphs_and_no_tables_of_shaping(tmp_path: Path) -> None:
    load = subset.load_font
    with drawing():
        figure = Figure(figsize=(2, 2))
        figure.text(0.1, 0.5, "egg")
        pdf, _ = save_figure(figure, tmp_path, "f", photographic=False)
    assert subset.load_font is load
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf.read_bytes(), re.DOTALL)
    contents = [zlib.decompress(stream) for stream in streams]
    (font,) = [TTFont(io.BytesIO(content)) for content in contents if content.startswith(b"\0\1\0\0")]
    assert {"e", "g"} <= set(font.getGlyphOrder())
    assert not {"GSUB", "GPOS", "GDEF", "MATH", "kern"} & {*font.keys()}
