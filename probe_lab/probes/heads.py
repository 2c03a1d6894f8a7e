"""From the embedding u, and the scalars beside it, to one standardised score per evaluator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probe_lab.probes.inputs import LIMIT
from probe_lab.probes.picture_judge import QUESTIONS
from probe_lab.probes.ridge import FREE, Moments, prompt_means, ridge
from probe_lab.probes.spec import ProbeSpec


class MLPHead(nn.Module):
    """SiLU, dropout, and one hidden layer: ``[B, embedding]`` to ``[B, E]``.

    Of a probe whose ``head`` is "text" the input is that of ``beside``, four times as wide and without the SiLU. With
    scalars the hidden layer reads them too, without dropout, and the last one starts at zero: what ``Direct`` says of
    them is the prediction that training begins with.
    """

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        text = spec.reads_prompt
        self.layers = nn.Sequential(
            nn.Identity() if text else nn.SiLU(),
            nn.Dropout(spec.dropout),
            nn.Linear((4 if text else 1) * spec.embedding + spec.numbers, spec.embedding),
            nn.SiLU(),
            nn.Linear(spec.embedding, len(spec.evaluators)),
        )
        if spec.numbers:
            nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, embedding: Tensor, scalars: Tensor | None = None) -> Tensor:
        """``scalars`` ``[B, S]`` standardised."""
        hidden = self.layers[:2](embedding)
        prediction: Tensor = self.layers[2:](hidden if scalars is None else torch.cat([hidden, scalars], dim=1))
        return prediction


class PromptEmbedding(nn.Sequential):
    """Pooled text ``[P, text_dim]`` to the prompt's embedding e ``[P, embedding]``, with a hidden layer of the mean of
    both widths."""

    def __init__(self, spec: ProbeSpec) -> None:
        hidden = (spec.text_dim + spec.embedding) // 2
        super().__init__(
            nn.LayerNorm(spec.text_dim),
            nn.Linear(spec.text_dim, hidden),
            nn.SiLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(hidden, spec.embedding),
        )


def beside(image: Tensor, text: Tensor) -> Tensor:
    """[u, e, u·e, |u − e|] of two ``[B, D]``: ``[B, 4 D]``, what the head of Probe-Select's published code reads."""
    return torch.cat([image, text, image * text, (image - text).abs()], dim=1)


class Scalars(nn.Module):
    """Standardises raw scalars ``[B, S]`` by training statistics, which are buffers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        self.mean: Tensor
        self.std: Tensor

    def fit(self, scalars: Tensor) -> None:
        """Take the statistics of ``scalars`` ``[n, S]``; one that never changes is only centred."""
        std, mean = torch.std_mean(scalars.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-7, std, 1.0))

    def forward(self, scalars: Tensor) -> Tensor:
        return ((scalars.float() - self.mean) / self.std).clamp(-LIMIT, LIMIT)


class Direct(nn.Linear):
    """The straight way from standardised scalars ``[B, S]`` to predictions ``[B, E]``, beside the head.

    A strong scalar, such as the score of a preview, is half the answer: least squares find its slope from few samples,
    and the rest of the probe learns what it lacks.
    """

    @torch.no_grad()
    def fit(self, scalars: Tensor, target: Tensor, prompt: Tensor) -> None:
        """Start at the least-squares solution for standardised scalars ``[n, S]`` and targets ``[n, E]``.

        Of differences within prompts, as far as there are any: a scalar that knows which prompts are hard says nothing
        of which candidate is best.
        """
        apart = [values - prompt_means(values, prompt) for values in (scalars.double(), target.double())]
        x, y = apart if len(prompt) > int(prompt.max()) + 1 else (scalars, target)
        weight, _ = ridge(Moments.of([(x, y)], *reversed(self.weight.shape)), FREE)
        self.weight.copy_(weight.T)
        self.bias.copy_(target.double().mean(dim=0) - scalars.double().mean(dim=0) @ weight)


class Blend(nn.Module):
    """A probe's own prediction and what a picture judge says, in shares that validation prompts decide; buffers.

    On the training split nothing could decide them: the judge has learnt the scores of its pictures, as the probe has.
    """

    def __init__(self, evaluators: int) -> None:
        super().__init__()
        self.register_buffer("own", torch.ones(evaluators))
        self.register_buffer("judge", torch.zeros(QUESTIONS, evaluators))
        self.own: Tensor
        self.judge: Tensor

    @torch.no_grad()
    def fit(self, prediction: Tensor, judged: Tensor, target: Tensor, prompt: Tensor) -> None:
        """Take the shares, none below 0, that tell the samples of a prompt apart with the smallest squared error.

        ``prediction`` and ``target`` are ``[n, E]``, ``judged`` ``[n, 2E]``, all standardised, and ``prompt`` ``[n]``.
        They stay as they are for an evaluator whose samples of a prompt nothing tells apart.
        """
        from scipy.optimize import nnls  # half a second that only training pays

        sources = torch.stack([prediction, *judged.chunk(QUESTIONS, dim=1)], dim=2).double()  # [n, E, 1 + QUESTIONS]
        apart = sources - prompt_means(sources.flatten(1), prompt).view_as(sources)
        wanted = target.double() - prompt_means(target.double(), prompt)
        for evaluator in range(target.shape[1]):
            shares, _ = nnls(apart[:, evaluator].numpy(), wanted[:, evaluator].numpy())
            if shares.any():
                self.own[evaluator] = float(shares[0])
                self.judge[:, evaluator] = torch.from_numpy(shares[1:]).float()

    def forward(self, prediction: Tensor, judged: Tensor) -> Tensor:
        """``[B, E]`` of the two."""
        answers = judged.view(len(judged), QUESTIONS, len(self.own))
        blended: Tensor = self.own * prediction + (self.judge * answers).sum(dim=1)
        return blended
