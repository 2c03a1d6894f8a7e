"""What of a denoiser's arguments has an entry per row, whatever lengths happen to fit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from probe_lab.capture.batch_rows import copied, copies_of, spread, taken, widened

ROWS = 2
WANTED = torch.tensor([1, 3])
"""The second of two images, in a batch without and with the prompt."""


def rows_of(*shape: int) -> Tensor:
    return torch.arange(4.0).view(4, *[1] * len(shape)).expand(4, *shape)


def narrowed(**arguments: Any) -> dict[str, Any]:
    return taken({"sample": rows_of(3, 2, 2), **arguments}, WANTED)


def test_the_places_of_images_in_a_batch() -> None:
    kept = torch.tensor([0, 2])
    assert copies_of(kept, 3, 3).tolist() == [0, 2]
    assert copies_of(kept, 3, 6).tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_a_list_of_something_else_stays_whatever_its_length(length: int) -> None:
    layers = list(range(length))
    found = narrowed(skip_layers=layers, cross_attention_kwargs={"scale": layers, "names": ("a",) * length})
    assert found["skip_layers"] == layers
    assert found["cross_attention_kwargs"] == {"scale": layers, "names": ("a",) * length}


@pytest.mark.parametrize("adapters", [1, 2, 3, 4])
def test_tensors_in_lists_dicts_and_tuples_are_narrowed_one_by_one(adapters: int) -> None:
    found = narrowed(
        added_cond_kwargs={"image_embeds": [rows_of(1, 5)] * adapters, "time_ids": rows_of(6)},
        down_block_additional_residuals=(rows_of(8, 2, 2),) * adapters,
        cross_attention_kwargs={"gligen": {"boxes": rows_of(30, 4)}},
    )
    tensors = [*found["added_cond_kwargs"]["image_embeds"], *found["down_block_additional_residuals"]]
    tensors += [found["added_cond_kwargs"]["time_ids"], found["cross_attention_kwargs"]["gligen"]["boxes"]]
    assert len(tensors) == 2 * adapters + 2
    assert isinstance(found["down_block_additional_residuals"], tuple)
    for tensor in tensors:
        assert tensor.flatten(1)[:, 0].tolist() == [1, 3]


def test_only_tensors_with_as_many_rows_as_the_latents_are_of_rows() -> None:
    """Masks of regions have one row, a vector as long as half the batch is something else."""
    masks, vector, scalar = [torch.ones(1, 2, 4, 4)], torch.arange(2.0), torch.tensor(500)
    found = narrowed(timestep=scalar, cross_attention_kwargs={"ip_adapter_masks": masks, "weights": vector})
    assert found["timestep"] is scalar
    assert found["cross_attention_kwargs"]["ip_adapter_masks"][0] is masks[0]
    assert found["cross_attention_kwargs"]["weights"] is vector


def test_positions_of_tokens_have_rows_only_beside_an_axis_of_them() -> None:
    flat, deep = torch.zeros(4, 3), rows_of(7, 4)
    found = narrowed(img_ids=flat, txt_ids=deep)
    assert found["img_ids"] is flat
    assert len(found["txt_ids"]) == 2


def test_lists_that_are_known_to_be_per_row() -> None:
    shapes = [[(1, row, 9)] for row in range(4)]
    assert narrowed(img_shapes=shapes)["img_shapes"] == [[(1, 1, 9)], [(1, 3, 9)]]
    assert narrowed(img_shapes=shapes[:1])["img_shapes"] == shapes[:1]
    assert narrowed(txt_seq_lens=[5, 6, 7, 8])["txt_seq_lens"] == [6, 8]


class _Pair(NamedTuple):
    first: Tensor
    second: int


def test_containers_keep_their_kind_and_the_given_ones_stay_as_they_are() -> None:
    given = {"pair": _Pair(rows_of(2), 4), "ordered": OrderedDict(a=rows_of(2)), "list": [rows_of(2), [None, "x"]]}
    found = narrowed(joint_attention_kwargs=given)["joint_attention_kwargs"]
    assert isinstance(found["pair"], _Pair)
    assert isinstance(found["ordered"], OrderedDict)
    assert found["pair"].second == 4
    assert found["list"][1] == [None, "x"]
    assert len(found["pair"].first) == len(found["ordered"]["a"]) == len(found["list"][0]) == 2
    assert len(given["pair"].first) == len(given["ordered"]["a"]) == len(given["list"][0]) == 4


def test_copies_share_tensors_and_no_containers() -> None:
    """Denoisers take entries out of the dictionaries that they are given."""
    given = {"sample": rows_of(1), "joint_attention_kwargs": {"ip_adapter_image_embeds": [rows_of(2)]}}
    found = copied(given)
    image = given["joint_attention_kwargs"].pop("ip_adapter_image_embeds")
    assert found["joint_attention_kwargs"]["ip_adapter_image_embeds"][0] is image[0]
    assert found["sample"] is given["sample"]


def test_an_answer_is_put_back_among_zeros() -> None:
    answer = torch.ones(2, 3)
    assert widened((answer, "rest"), WANTED, 4)[0][:, 0].tolist() == [0, 1, 0, 1]
    assert widened((answer, "rest"), WANTED, 4)[1] == "rest"
    assert widened(UNet2DConditionOutput(sample=answer), WANTED, 4).sample[:, 0].tolist() == [0, 1, 0, 1]
    assert spread(answer.half(), WANTED, 4, torch.nan).isnan()[:, 0].tolist() == [True, False, True, False]
