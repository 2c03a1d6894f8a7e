from __future__ import annotations

import io
import random

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from probe_lab.evaluators.preprocessing import CLIP_MEAN, CLIP_STD, clip_transform, to_rgb

SIZES = [(64, 64), (224, 224), (300, 200), (200, 301), (1, 40), (40, 1), (1, 1), (33, 500)]


def picture(size: tuple[int, int] = (48, 40), mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert("RGB" if mode in ("YCbCr", "HSV", "CMYK") else "RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "F"])
def test_to_rgb_is_pillows_conversion(mode: str) -> None:
    original = picture(mode="RGB" if mode == "P" else mode).convert(mode)
    assert to_rgb(original).mode == "RGB"
    assert np.array_equal(np.asarray(to_rgb(original)), np.asarray(original.convert("RGB")))


def test_transparency_is_dropped() -> None:
    original = picture(mode="RGBA")
    assert np.array_equal(np.asarray(to_rgb(original)), np.asarray(original)[..., :3])


def test_transparent_palette() -> None:
    """A GIF-like picture, one of whose colours is transparent, keeps that colour."""
    original = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    original.putpalette([255, 0, 0, 0, 0, 255])
    stream = io.BytesIO()
    original.save(stream, "PNG", transparency=1)
    read = Image.open(stream)
    assert "transparency" in read.info
    assert np.asarray(to_rgb(read)).tolist() == [[[255, 0, 0], [0, 0, 255]], [[0, 0, 255], [255, 0, 0]]]


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
def test_sixteen_bits_are_scaled(dtype: str) -> None:
    eight = np.random.default_rng(1).integers(0, 256, (5, 7)).astype(np.uint8)
    original = Image.fromarray((eight.astype(np.uint32) * 257).astype(dtype))
    assert original.mode.startswith("I")
    assert np.array_equal(np.asarray(to_rgb(original)), np.stack([eight] * 3, axis=-1))


def test_premultiplied_grey() -> None:
    grey = picture(mode="L")
    grey.putalpha(255)
    assert np.array_equal(np.asarray(to_rgb(grey.convert("La"))), np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [32, 224])
def test_equal_to_open_clip(size: tuple[int, int], side: int) -> None:
    theirs = open_clip.image_transform(side, is_train=False)
    ours = clip_transform(side)
    assert torch.equal(ours.apply(picture(size)), theirs(picture(size)))
    assert ours.apply(picture(size)).shape == (3, side, side)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("fit", ["shortest", "squash"])
def test_equal_to_open_clip_in_other_settings(interpolation: str, fit: str) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    theirs = open_clip.image_transform(40, False, mean, std, resize_mode=fit, interpolation=interpolation)
    ours = clip_transform(40, mean, std, interpolation=interpolation, fit=fit)  # type: ignore[arg-type]
    assert torch.equal(ours.apply(picture((90, 50))), theirs(picture((90, 50))))


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "1", "CMYK", "I;16", "I"])
def test_every_mode_is_prepared_as_its_rgb(mode: str) -> None:
    original = picture(mode="L").convert("I").point(lambda x: x * 257) if mode.startswith("I") else picture(mode=mode)
    original = original.convert(mode)
    assert torch.equal(clip_transform(32).apply(original), clip_transform(32).apply(to_rgb(original)))


def test_words_differ_where_the_pixels_do() -> None:
    transforms = [
        clip_transform(224),
        clip_transform(225),
        clip_transform(224, interpolation="bilinear"),
        clip_transform(224, fit="squash"),
        clip_transform(224, std=(0.5, 0.5, 0.5)),
        clip_transform(224, mean=(0.5, 0.5, 0.5)),
        clip_transform(224, mean=(0.50000001, 0.5, 0.5)),
    ]
    assert len({each.words for each in transforms}) == len(transforms)
    assert clip_transform(224).words == clip_transform(224, list(CLIP_MEAN), list(CLIP_STD)).words


def test_the_constants_are_open_clips() -> None:
    assert (CLIP_MEAN, CLIP_STD) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def test_the_picture_is_left_as_it_was() -> None:
    original = picture((random.Random(0).randint(20, 50), 30))
    before = original.tobytes()
    clip_transform(32).apply(original)
    assert original.tobytes() == before
