"""What a selecting call is given: prompts or their embeddings, and generators, a row of the call for each candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe_lab.errors import SelectError

Seed = int | None
"""What ``manual_seed`` needs to draw an image again; None where no seed does."""

TEXTS = ("prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")
"""Options of pipelines that are a text, or one for each prompt."""

_EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds")
_MASKS = ("prompt_embeds_mask", "prompt_attention_mask")
EMBEDDINGS = tuple(f"{sign}{name}" for sign in ("", "negative_") for name in (*_EMBEDDINGS, *_MASKS))
"""Options of pipelines that have a row for each prompt."""


@dataclass(frozen=True)
class CallPrompts:
    """``count`` prompts: ``texts``, or none where embeddings were given. ``options`` are those of the pipeline's call
    that have to do with them, with so many ``candidates`` of each, prompt after prompt."""

    count: int
    texts: tuple[str, ...]
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls, prompt: str | Sequence[str] | None, given: Mapping[str, Any], candidates: int, *, repeat: bool
    ) -> CallPrompts:
        """From ``prompt`` and the options of a call. ``repeat``: the pipeline does not make several images of a prompt
        as it should. Embeddings are always repeated here: pipelines differ in whether they do it.

        Raises:
            SelectError: neither prompts nor embeddings, both, or not one entry for each.
        """
        embeddings = {name: given[name] for name in EMBEDDINGS if given.get(name) is not None}
        if (prompt is None) is ("prompt_embeds" not in embeddings):
            wrong = "neither says" if prompt is None else "both say"
            raise SelectError(f"prompt and prompt_embeds: {wrong} what is drawn; give one of them")
        texts = () if prompt is None else (prompt,) if isinstance(prompt, str) else tuple(prompt)
        count = len(embeddings["prompt_embeds"]) if prompt is None else len(texts)
        if not count:
            raise SelectError("there is no prompt: give at least one")
        # An empty text is a negative prompt of its own; a further prompt that is empty is the first one again.
        named = [
            name for name in TEXTS if given.get(name) or (name == "negative_prompt" and given.get(name) is not None)
        ]
        further = {name: _texts(name, given[name], count) for name in named}
        for name, tensor in embeddings.items():
            if len(tensor) != count:
                raise SelectError(f"{name} has {len(tensor)} rows for {count} prompts: give one row each")
        lists = further | ({} if prompt is None else {"prompt": list(texts)})
        if not repeat and not embeddings:
            return cls(count, texts, {**lists, "num_images_per_prompt": candidates})
        repeated: dict[str, Any] = {
            name: [text for text in entries for _ in range(candidates)] for name, entries in lists.items()
        }
        rows = {name: _repeated(tensor, candidates) for name, tensor in embeddings.items()}
        return cls(count, texts, {**repeated, **rows, "num_images_per_prompt": 1})


def _texts(name: str, given: str | Sequence[str], count: int) -> list[str]:
    entries = [given] * count if isinstance(given, str) else list(given)
    if len(entries) != count:
        label = "negative prompts" if name == "negative_prompt" else f"entries of {name}"
        raise SelectError(f"there are {len(entries)} {label} for {count} prompts: give one each")
    return entries


def _repeated(rows: Tensor, times: int) -> Tensor:
    return rows.repeat_interleave(times, 0)


def generators_of(
    given: torch.Generator | Sequence[torch.Generator] | None, prompts: int, candidates: int
) -> list[torch.Generator]:
    """One per candidate, prompt after prompt: those ``given``; or new ones, seeded from the one that is given or else
    from torch's own.

    Raises:
        SelectError: another number of them.
    """
    count = prompts * candidates
    if given is None or isinstance(given, torch.Generator):
        device = "cpu" if given is None else given.device
        seeds = torch.randint(2**63 - 1, (count,), generator=given, device=device, dtype=torch.int64)
        return [torch.Generator("cpu").manual_seed(seed) for seed in seeds.tolist()]
    if len(given) != count:
        raise SelectError(
            f"there are {len(given)} generators for {count} candidates ({prompts} prompts × {candidates}): "
            "give one for each, or a single one"
        )
    return list(given)


def seeds_of(generators: Sequence[torch.Generator]) -> list[Seed]:
    """The seed of each generator that draws from now on what a new one with that seed draws; None of one that was used
    before, or that stands for several candidates, which take turns in it."""
    times = [sum(other is generator for other in generators) for generator in generators]
    return [
        generator.initial_seed() if count == 1 and _is_fresh(generator) else None
        for generator, count in zip(generators, times, strict=True)
    ]


def _is_fresh(generator: torch.Generator) -> bool:
    new = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return torch.equal(generator.get_state(), new.get_state())
