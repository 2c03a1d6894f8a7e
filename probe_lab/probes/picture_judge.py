"""The picture judge: looks for each word of a caption in a predicted clean latent and weighs what it sees.

It says of any (x₀ prediction, caption) what an evaluator would give the decoded prediction, and what the picture that
becomes of it, without decoding. So it can be trained on labels of altered captions (see ``docs/labels.md``) and on all
captured steps at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probe_lab.probes.blocks import ResidualBlock, StepEmbedding, groups, sinusoids

GRID, PIXELS = 16, 4
"""Longest side, in cells, of the map that is painted from x₀, and pixels per cell side; words look at half the grid."""
WIDTH, WORDS, HEADS, ROUNDS, FREQUENCIES = 96, 64, 4, 2, 64
"""Channels of the map and of a word, heads of attention, rounds of looking, and sinusoids of a step."""
QUESTIONS = 2
"""What a judge is asked for each evaluator: the score of the decoded prediction, and of the finished picture."""
REACH = 12
"""Words before and behind a word that are told apart by how far away they stand."""
WAVES = 2
"""Sine and cosine pairs of each coordinate, beside the coordinate itself."""
_FALL, _ELSEWHERE, _NEVER = 0.3, -3.0, -1e4
"""Logits of attention: what each word further away takes off at first, that of a word on the other side, and of
padding."""


class PictureJudge(nn.Module):
    """x₀ predictions ``[N, C, H, W]`` and R captions of each, to standardised scores ``[N, R, 2E]``: what E evaluators
    give the decoded prediction, then what they give the finished picture.

    The latent is painted as a map of at most ``GRID``² cells: a rough picture, which ``painted`` shows, and features.
    Convolutions that know the step shrink it. In each round, the words of
    a caption look at each other, and then each looks for its own place in the map; the scores are read from the mean
    and the minimum over words, since one thing missing is enough to spoil a picture. Captions of one picture share
    its map: a further one costs a look.
    """

    def __init__(self, shape: tuple[int, int, int], token_dim: int, evaluators: int) -> None:
        super().__init__()
        channels, *sides = shape
        stride = math.ceil(max(sides) / GRID)
        condition = 2 * WIDTH
        for name, size in {"clean_mean": (channels, 1, 1), "label_mean": (QUESTIONS * evaluators,)}.items():
            self.register_buffer(name, torch.zeros(size))
            self.register_buffer(name.replace("mean", "scale"), torch.ones(size))
        self.clean_mean: Tensor
        self.clean_scale: Tensor
        self.label_mean: Tensor
        self.label_scale: Tensor

        self.step = StepEmbedding(FREQUENCIES, condition)
        patch = nn.Conv2d(channels, WIDTH, stride, stride) if stride > 1 else nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.paint = nn.Sequential(patch, nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU())
        self.picture = nn.Conv2d(WIDTH, 3 * PIXELS**2, 1)
        self.shrink = nn.Conv2d(WIDTH + 3 * PIXELS**2, WIDTH, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(WIDTH, WIDTH, condition, 0.0) for _ in range(2))
        self.norm = nn.GroupNorm(groups(WIDTH), WIDTH)
        self.place = nn.Linear(WIDTH + 2 + 4 * WAVES, WORDS)
        self.cell = nn.Sequential(_Widened(), nn.LayerNorm(WORDS))

        self.word = nn.Sequential(nn.LayerNorm(token_dim), nn.Linear(token_dim, WORDS))
        self.moment = nn.Linear(condition, WORDS)
        self.rounds = nn.ModuleList(_Round() for _ in range(ROUNDS))
        self.weigh = _Attention(among_words=True)
        self.conclude = _Widened()
        self.head = nn.Sequential(nn.LayerNorm(2 * WORDS), nn.Linear(2 * WORDS, 2 * WORDS), nn.GELU())
        self.score = nn.Linear(2 * WORDS, QUESTIONS * evaluators)

    def standardise(self, clean: Tensor, labels: Tensor) -> None:
        """Take the units of x₀ predictions ``[n, C, H, W]`` and of raw labels ``[…, 2E]``, in which NaN is missing."""
        std, mean = torch.std_mean(clean.float(), dim=(0, 2, 3))
        self.clean_mean.copy_(mean[:, None, None])
        self.clean_scale.copy_(std.clamp_min(1e-6)[:, None, None])
        rows = labels.flatten(0, -2)
        self.label_mean.copy_(rows.nanmean(dim=0).nan_to_num(0.0))
        scale = (rows - self.label_mean).square().nanmean(dim=0).sqrt().clamp_min(1e-6)
        self.label_scale.copy_(scale.nan_to_num(0.0))  # what nothing teaches is the same of all pictures

    def forward(self, clean: Tensor, share: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """``share`` ``[N]`` is the step as a share of all; ``tokens`` ``[N, R, L, D]``, ``mask`` ``[N, R, L]`` bool."""
        condition = self.step(sinusoids(1000 * share.float(), FREQUENCIES))
        cells = self._cells(clean.float(), condition)
        length = int(mask.flatten(0, 1).any(dim=0).nonzero().max()) + 1  # padding of the whole batch costs nothing
        tokens, mask = tokens[:, :, :length].float(), mask[:, :, :length]
        # Places are told by whom a word attends to, see ``_Order``: sinusoids that are added would drown the words.
        words = self.word(tokens) + self.moment(F.silu(condition))[:, None, None]
        seen = mask.flatten(0, 1)[:, None, None, :]
        for look in self.rounds:
            words = look(words, cells, seen)
        flat = words.flatten(0, 1)
        words = self.conclude((flat + self.weigh(flat, flat, seen)).view_as(words))
        real = mask[..., None]
        mean = (words * real).sum(dim=2) / real.sum(dim=2)
        scores: Tensor = self.score(self.head(torch.cat([mean, words.masked_fill(~real, torch.inf).amin(dim=2)], -1)))
        return scores

    @torch.no_grad()
    def scores(self, clean: Tensor, share: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Raw scores ``[N, 2E]`` under one caption each: ``tokens`` ``[N, L, D]``, ``mask`` ``[N, L]``."""
        standardised = self(clean, share, tokens[:, None], mask[:, None])[:, 0]
        return self.label_mean + self.label_scale * standardised

    def painted(self, clean: Tensor) -> Tensor:
        """The rough picture of x₀ ``[N, C, H, W]``: ``[N, 3, h, w]`` in −1..1, ``PIXELS`` times the map's height and
        width."""
        return F.pixel_shuffle(self.picture(self._features(clean.float())), PIXELS)

    def _features(self, clean: Tensor) -> Tensor:
        features: Tensor = self.paint((clean - self.clean_mean) / self.clean_scale)
        return features

    def _cells(self, clean: Tensor, condition: Tensor) -> Tensor:
        """``[N, cells, WORDS]``: what is where."""
        features = self._features(clean)
        state = self.shrink(torch.cat([features, self.picture(features)], dim=1))
        for block in self.blocks:
            state = block(state, condition)
        state = F.silu(self.norm(state))
        where = _coordinates(state.shape[2], state.shape[3], state.device)
        state = torch.cat([state, where.expand(len(state), -1, -1, -1)], dim=1)
        cells: Tensor = self.cell(self.place(state.flatten(2).transpose(1, 2)))
        return cells


class _Round(nn.Module):
    """Words look at each other, then at the map."""

    def __init__(self) -> None:
        super().__init__()
        self.talk, self.look = _Attention(among_words=True), _Attention()
        self.after_talk, self.after_look = _Widened(), _Widened()

    def forward(self, words: Tensor, cells: Tensor, seen: Tensor) -> Tensor:
        """``words`` ``[N, R, L, WORDS]``, ``cells`` ``[N, K, WORDS]``, ``seen`` ``[N·R, 1, 1, L]``."""
        flat = words.flatten(0, 1)
        words = self.after_talk((flat + self.talk(flat, flat, seen)).view_as(words))
        asking = words.flatten(1, 2)
        answered: Tensor = self.after_look((asking + self.look(asking, cells)).view_as(words))
        return answered


class _Order(nn.Module):
    """What is added to the logits of attention by how many words further on the other word stands.

    The first head begins by looking at the words before, the second at those behind, the nearest most, and the others
    at all alike: "left of" has to find what stands on either side of it, which is learnt late without.
    """

    def __init__(self) -> None:
        super().__init__()
        away = torch.arange(-REACH, REACH + 1).float()
        logits = torch.zeros(HEADS, len(away))
        logits[0] = torch.where(away < 0, -_FALL * away.abs(), _ELSEWHERE)
        logits[1] = torch.where(away > 0, -_FALL * away.abs(), _ELSEWHERE)
        self.logits = nn.Parameter(logits)

    def forward(self, length: int) -> Tensor:
        """``[HEADS, length, length]``, the asking word first."""
        at = torch.arange(length, device=self.logits.device)
        return self.logits[:, (at - at[:, None]).clamp(-REACH, REACH) + REACH]


class _Attention(nn.Module):
    """What ``asking`` ``[B, L, WORDS]`` finds in ``given`` ``[B, K, WORDS]``."""

    def __init__(self, *, among_words: bool = False) -> None:
        super().__init__()
        self.order = _Order() if among_words else None
        self.norm = nn.LayerNorm(WORDS)
        self.query, self.out = nn.Linear(WORDS, WORDS), nn.Linear(WORDS, WORDS)
        self.key_value = nn.Linear(WORDS, 2 * WORDS)

    def forward(self, asking: Tensor, given: Tensor, mask: Tensor | None = None) -> Tensor:
        itself = asking is given
        asking = self.norm(asking)
        query, (key, value) = self.query(asking), self.key_value(asking if itself else given).chunk(2, dim=-1)
        query, key, value = (states.unflatten(2, (HEADS, -1)).transpose(1, 2) for states in (query, key, value))
        logits: Tensor | None = mask
        if self.order is not None and mask is not None:
            logits = self.order(asking.shape[1]).masked_fill(~mask, _NEVER)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=logits)
        answer: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return answer


class _Widened(nn.Module):
    """A residual hidden layer of twice the width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(WORDS), nn.Linear(WORDS, 2 * WORDS), nn.GELU(), nn.Linear(2 * WORDS, WORDS)
        )

    def forward(self, state: Tensor) -> Tensor:
        refined: Tensor = state + self.layers(state)
        return refined


def _coordinates(height: int, width: int, device: torch.device) -> Tensor:
    """``[1, 2 + 4·WAVES, H, W]``: y and x from −1 to 1, and waves of them, so that places can be compared."""
    axes = [torch.linspace(-1, 1, side, device=device) for side in (height, width)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    angles = torch.cat([math.pi * (wave + 1) * places for wave in range(WAVES)])
    return torch.cat([places, angles.sin(), angles.cos()])[None]


def of_evaluators(weights: Mapping[str, Tensor], places: Sequence[int]) -> dict[str, Tensor]:
    """The weights of a judge of the evaluators at ``places`` alone."""
    columns = columns_of(places, len(weights["score.bias"]) // QUESTIONS)
    per_evaluator = ("score.weight", "score.bias", "label_mean", "label_scale")
    return {name: value[columns] if name in per_evaluator else value for name, value in weights.items()}


def columns_of(places: Sequence[int], evaluators: int) -> list[int]:
    """Where what a judge of so many ``evaluators`` says of those at ``places`` stands among all that it says."""
    return [question * evaluators + place for question in range(QUESTIONS) for place in places]


def frozen(module: nn.Module) -> nn.Module:
    """The module with its weights as buffers: they are stored and moved with it, and no optimizer changes them."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, weight.detach())
    return module
