"""The picture judge: what its scores may depend on, that it learns what a caption asks, and how it is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from probe_lab.errors import ProbeError
from probe_lab.probes.picture_judge import PictureJudge, frozen, of_evaluators
from probe_lab.probes.spec import ProbeSpec

SHAPE, WORDS, LENGTH = (4, 16, 16), 6, 5
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def untrained(shape: tuple[int, int, int] = SHAPE, evaluators: int = 2) -> PictureJudge:
    torch.manual_seed(0)
    return PictureJudge(shape, WORDS, evaluators).eval()


def a_batch(shape: tuple[int, int, int] = SHAPE, pictures: int = 3, captions: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(pictures, *shape, generator=generator)
    tokens = torch.randn(pictures, captions, LENGTH, WORDS, generator=generator)
    mask = torch.ones(pictures, captions, LENGTH, dtype=torch.bool)
    mask[:, :, 3:] = False
    return clean, torch.linspace(0.1, 0.5, pictures), tokens, mask


def test_a_score_depends_on_its_picture_step_and_caption_alone() -> None:
    judge, (clean, share, tokens, mask) = untrained(), a_batch()
    together = judge(clean, share, tokens, mask)
    assert together.shape == (3, 2, 4)
    for picture in range(3):
        for caption in range(2):
            place = slice(picture, picture + 1), slice(caption, caption + 1)
            alone = judge(clean[place[0]], share[place[0]], tokens[place], mask[place])
            torch.testing.assert_close(alone[0, 0], together[picture, caption], rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing_and_words_do() -> None:
    judge, (clean, share, tokens, mask) = untrained(), a_batch()
    before = judge(clean, share, tokens, mask)
    padding, word = tokens.clone(), tokens.clone()
    padding[:, :, 3:] = 100.0
    word[:, :, 2] = word[:, :, 2].flip(2)
    torch.testing.assert_close(judge(clean, share, padding, mask), before)
    longer = torch.cat([tokens, torch.ones(3, 2, 4, WORDS)], 2), torch.cat([mask, torch.zeros(3, 2, 4).bool()], 2)
    torch.testing.assert_close(judge(clean, share, *longer), before)
    assert not torch.allclose(judge(clean, share, word, mask), before, atol=1e-4)


def test_the_order_of_words_is_read_without_a_hint_in_their_embeddings() -> None:
    judge, (clean, share, tokens, mask) = untrained(), a_batch()
    backwards = tokens.clone()
    backwards[:, :, :3] = tokens[:, :, :3].flip(2)  # the three that are no padding
    assert (judge(clean, share, tokens, mask) - judge(clean, share, backwards, mask)).abs().max() > 1e-3


def test_picture_and_step_are_read() -> None:
    judge, (clean, share, tokens, mask) = untrained(), a_batch()
    before = judge(clean, share, tokens, mask)
    assert not torch.allclose(judge(clean.flip(3), share, tokens, mask), before, atol=1e-4)
    assert not torch.allclose(judge(clean, share + 0.3, tokens, mask), before, atol=1e-5)


def test_large_latents_are_judged_on_the_same_grid() -> None:
    shape = (4, 96, 128)
    judge, batch = untrained(shape), a_batch(shape, pictures=1)
    assert judge(*batch).shape == (1, 2, 4)
    assert judge.painted(batch[0]).shape == (1, 3, 48, 64)


def test_it_learns_whether_a_picture_shows_what_a_word_asks() -> None:
    # Word 0 asks for a bright upper half, word 1 for a bright lower half; a picture has one of them.
    torch.manual_seed(2)
    judge = PictureJudge((1, 16, 16), 2, 1)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)

    def drawn(count: int) -> tuple[Tensor, Tensor, Tensor]:
        lower = torch.randint(2, (count,))
        clean = 0.3 * torch.randn(count, 1, 16, 16)
        clean[lower == 0, :, :8] += 1
        clean[lower == 1, :, 8:] += 1
        tokens = torch.eye(2).expand(count, 2, 2)[:, :, None]
        shows = torch.stack([lower == 0, lower == 1], 1).float()
        return clean, tokens, torch.stack([shows, 1 - shows], 2)

    for _ in range(40):
        clean, tokens, target = drawn(16)
        scores = judge(clean, torch.full((16,), 0.2), tokens, torch.ones(16, 2, 1, dtype=torch.bool))
        loss = (scores - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clean, tokens, target = drawn(64)
    with torch.no_grad():
        scores = judge(clean, torch.full((64,), 0.2), tokens, torch.ones(64, 2, 1, dtype=torch.bool))
    assert ((scores > 0.5) == (target > 0.5)).float().mean() > 0.95


def test_raw_scores_have_the_units_of_the_labels() -> None:
    judge, (clean, share, tokens, mask) = untrained(), a_batch()
    labels = torch.randn(50, 3, 4) * torch.tensor([2.0, 10.0, 1.0, 3.0]) + torch.tensor([5.0, -40.0, 0.0, 7.0])
    labels[0, 0, 0] = torch.nan  # a label that is missing
    judge.standardise(clean, labels)
    torch.testing.assert_close(judge.label_mean, labels.flatten(0, 1).nanmean(0))
    torch.testing.assert_close(judge.clean_scale.flatten(), clean.std(dim=(0, 2, 3)))
    raw = judge.scores(clean, share, tokens[:, 0], mask[:, 0])
    expected = judge.label_mean + judge.label_scale * judge(clean, share, tokens, mask)[:, 0]
    torch.testing.assert_close(raw, expected)


def test_a_question_without_labels_has_one_answer() -> None:
    judge, (clean, share, tokens, mask) = untrained(), a_batch()
    labels = torch.randn(50, 3, 4)
    labels[..., :2] = torch.nan  # no preview was scored
    judge.standardise(clean, labels)
    raw = judge.scores(clean, share, tokens[:, 0], mask[:, 0])
    assert raw[:, :2].eq(0).all()
    assert raw[:, 2:].std(dim=0).min() > 0


def test_frozen_weights_are_stored_but_not_trained() -> None:
    judge, batch = untrained(), a_batch()
    names, scores = list(judge.state_dict()), judge(*batch).detach()
    frozen(judge)
    assert list(judge.parameters()) == []
    assert sorted(judge.state_dict()) == sorted(names)
    torch.testing.assert_close(judge(*batch), scores)
    assert not judge(*batch).requires_grad


def test_a_judge_of_some_of_its_evaluators_gives_their_scores() -> None:
    judge, batch = untrained(evaluators=3), a_batch()
    some = untrained(evaluators=2)
    some.load_state_dict(of_evaluators(judge.state_dict(), [2, 0]))
    torch.testing.assert_close(some(*batch), judge(*batch)[..., [2, 0, 5, 3]])  # previews, then finished pictures


def test_a_judge_stands_beside_what_reads_x0() -> None:
    for kind, tap in (("cnn", "latent"), ("prompt_only", "x0")):
        with pytest.raises(ProbeError, match="picture judge, which reads x0"):
            ProbeSpec(kind, {tap: SHAPE}, ("good",), 5, 25, text_dim=WORDS, token_dim=WORDS, tokens=LENGTH, judge=True)
