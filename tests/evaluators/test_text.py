"""Text encodings of an evaluator's tower, against transformers' CLIPModel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import ConfigError
from probe_lab.evaluators import create
from probe_lab.evaluators.clip import ClipEvaluator
from probe_lab.evaluators.prompt_encoder import text_arrays


def scoring(folder: Path, batch_size: int = 64, **models: EvaluatorModel) -> Scoring:
    return Scoring(batch_size=batch_size, models={"clip_score": EvaluatorModel(checkpoint=str(folder)), **models})


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_equal_to_transformers(transformers_clip: Path, prompts: list[str], batch_size: int) -> None:
    found = text_arrays("clip_score", scoring(transformers_clip, batch_size), prompts)
    model = CLIPModel.from_pretrained(transformers_clip).double().eval()
    context = model.config.text_config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(transformers_clip)
    for row, prompt in enumerate(prompts):
        ids = tokenizer(prompt, truncation=True, max_length=context, return_tensors="pt")
        with torch.no_grad():
            embedding = model.get_text_features(**ids).pooler_output[0]
            states = model.text_model(**ids).last_hidden_state[0]
        assert (found["embedding"][row] - F.normalize(embedding, dim=0)).abs().max() <= 1e-5
        assert (found["tokens"][row][found["token_mask"][row]] - states).abs().max() <= 1e-4
        assert int(found["token_mask"][row].sum()) == len(states)
        assert bool(found["truncated"][row]) == (len(tokenizer(prompt, verbose=False)["input_ids"]) > context)


def test_shapes_and_dtypes(transformers_clip: Path) -> None:
    found = text_arrays("clip_score", scoring(transformers_clip), ["a red circle", "a red circle and a green square"])
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()} == {
        "embedding": ((2, 20), torch.float32),
        "tokens": ((2, 9, 24), torch.float32),  # seven words, begin and end
        "token_mask": ((2, 9), torch.bool),
        "truncated": ((2,), torch.bool),
    }
    assert found["token_mask"].sum(1).tolist() == [5, 9]


def test_each_distinct_prompt_once_and_in_order(
    transformers_clip: Path, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = ClipEvaluator.text_arrays

    def counted(self: ClipEvaluator, texts: list[str]) -> dict[str, Tensor]:
        asked.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(ClipEvaluator, "text_arrays", counted)
    again = [prompts[2], *prompts, prompts[0], prompts[2]]
    found = text_arrays("clip_score", scoring(transformers_clip), again)
    assert asked == [prompts[2], prompts[0], prompts[1], prompts[3], prompts[4]]
    once = text_arrays("clip_score", scoring(transformers_clip), prompts)
    for name, tensor in found.items():
        assert torch.allclose(tensor[1:6].float(), once[name].float(), atol=1e-6)
        assert torch.equal(tensor[0], tensor[-1])


def test_the_embedding_is_what_pictures_are_compared_with(transformers_clip: Path, prompts: list[str]) -> None:
    evaluator = create("clip_score", scoring(transformers_clip))
    assert isinstance(evaluator, ClipEvaluator)
    with torch.inference_mode():
        expected = evaluator.encode_prompts(prompts)[0]
    found = text_arrays("clip_score", scoring(transformers_clip), prompts)["embedding"]
    assert torch.equal(found, expected)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(prompts)))


def test_in_lower_precision_it_is_float32(transformers_clip: Path, prompts: list[str]) -> None:
    model = EvaluatorModel(checkpoint=str(transformers_clip))
    found = text_arrays("clip_score", Scoring(dtype="bfloat16", models={"clip_score": model}), prompts)
    assert found["embedding"].dtype == found["tokens"].dtype == torch.float32


def test_evaluators_without_a_text_tower(transformers_clip: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "head.pth")
    aesthetic = EvaluatorModel(checkpoint=str(tmp_path / "head.pth"), base=str(transformers_clip))
    for name in ("shapes_reward", "aesthetic"):
        with pytest.raises(ConfigError, match=rf"text\.encoder' is '{name}', which has no text tower"):
            text_arrays(name, scoring(transformers_clip, aesthetic=aesthetic), ["a"])
    with pytest.raises(ConfigError, match="there is no evaluator 'clip_scor': did you mean 'clip_score'"):
        text_arrays("clip_scor", scoring(transformers_clip), ["a"])
