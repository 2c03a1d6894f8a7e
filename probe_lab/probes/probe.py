"""A probe: early arrays of a sample in, predicted scores out. Everything that prediction needs is in its
state."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from probe_lab.errors import ProbeError, nearest
from probe_lab.probes.heads import Blend, Direct, MLPHead, PromptEmbedding, Scalars, beside
from probe_lab.probes.inputs import Inputs, Standardise
from probe_lab.probes.picture_judge import QUESTIONS, PictureJudge, frozen
from probe_lab.probes.spec import JUDGED, ProbeSpec


class Output(NamedTuple):
    """``prediction`` ``[B, E]`` in standard deviations of the target, and the ``embedding`` u that it was
    made from; where the head reads the prompt too, the prompt's embedding e, ``text`` ``[B, embedding]``."""

    prediction: Tensor
    embedding: Tensor
    text: Tensor | None = None


class Probe(nn.Module):
    """Encoder, head, and the statistics of the training split as buffers.

    ``forward`` is what is trained; ``predict`` gives scores in the evaluators' own units: score = mean + std
    · (shift + slope · ŷ), where ŷ is what ``blended`` gives, and ``slope`` and ``shift`` are 1 and 0 unless
    ``calibrate`` set them. ``unscaled`` are the evaluators for which it could not: of these predictions only the order
    means something.

    A picture ``judge`` was trained before, on labels, and does not change any more: ``blend`` adds what it says to the
    prediction when the rest is trained.
    """

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.unscaled: tuple[str, ...] = ()
        self.encoder: nn.Module
        self.head: nn.Module
        kind, scalars = spec.built_as, spec.numbers
        if not kind.encoder:
            self.encoder, self.head = nn.Identity(), nn.Identity()
        elif kind.by_gradient:
            self.encoder, self.head = kind.build_encoder(spec), MLPHead(spec)
        else:
            self.encoder = kind.build_encoder(spec)
            self.head = nn.Linear(int(self.encoder.size) + scalars, len(spec.evaluators))  # type: ignore[arg-type]
        self.judge: PictureJudge | None = None
        self.blend: Blend | None = None
        if spec.judge:
            self.blend = Blend(len(spec.evaluators))
            self.judge = PictureJudge(spec.taps[JUDGED], spec.token_dim, len(spec.evaluators))
            frozen(self.judge)
        self.scalars = Scalars(scalars) if scalars and kind.encoder else None
        self.direct = Direct(scalars, len(spec.evaluators)) if scalars and kind.by_gradient else None
        self.prompt = PromptEmbedding(spec) if spec.reads_prompt else None
        aligns = spec.aligned and self.prompt is None
        self.align_embedding = nn.Linear(spec.embedding, spec.embedding) if aligns else None
        self.align_text = nn.Linear(spec.text_dim, spec.embedding) if aligns else None
        for name, value in {"mean": 0.0, "std": 1.0, "median": 0.0, "slope": 1.0, "shift": 0.0}.items():
            self.register_buffer(f"target_{name}", torch.full((len(spec.evaluators),), value))
        self.target_mean: Tensor
        self.target_std: Tensor
        self.target_median: Tensor
        self.target_slope: Tensor
        self.target_shift: Tensor

    def standardise_features(self, mean: dict[str, Tensor], std: dict[str, Tensor]) -> None:
        """Set the input normalisation from statistics of the training split, ``[C]`` per tap."""
        layers = [layer for layer in self.encoder.modules() if isinstance(layer, Standardise)]
        for tap, layer in zip(self.spec.taps, layers, strict=bool(layers)):
            layer.fit(mean[tap], std[tap])

    def standardise_targets(self, mean: Tensor, std: Tensor, median: Tensor) -> None:
        """Set the units of the scores from statistics of the training split, ``[E]`` each."""
        self.target_mean.copy_(mean)
        self.target_std.copy_(torch.where(std > 0, std, 1.0))
        self.target_median.copy_(median)

    def fit_scalars(self, scalars: Tensor, target: Tensor, prompt: Tensor) -> None:
        """Set the units of the scalars from the training split, raw values ``[n, S]``, and start a head that is trained
        by gradient where they tell the raw ``target`` ``[n, E]`` of a prompt's samples apart best by themselves.
        ``prompt`` ``[n]`` counts from 0."""
        assert self.scalars is not None
        self.scalars.fit(scalars)
        if self.direct is not None:
            self.direct.fit(self.scalars(scalars), self.standardised(target), prompt)

    def standardised(self, target: Tensor) -> Tensor:
        """Raw scores ``[B, E]`` in standard deviations of the training split."""
        return (target - self.target_mean) / self.target_std

    def forward(self, inputs: Inputs) -> Output:
        if not self.spec.built_as.encoder:
            assert inputs.scalars is not None
            return Output(self.standardised(inputs.scalars), inputs.scalars)
        if self.prompt is None and (self.direct is None or self.scalars is None):
            embedding = self.features(inputs)
            return Output(self.head(embedding), embedding)
        embedding, text = self.encoder(inputs), None
        read = embedding
        if self.prompt is not None:
            assert inputs.text is not None
            text = inputs.spread(self.prompt(inputs.text.float()))
            read = beside(embedding, text)
        if self.direct is None or self.scalars is None:
            return Output(self.head(read), embedding, text)
        scalars = self._standardised_scalars(inputs)
        return Output(self.head(read, scalars) + self.direct(scalars), embedding, text)

    @torch.no_grad()
    def blended(self, prediction: Tensor, inputs: Inputs) -> Tensor:
        """Standardised predictions ``[B, E]`` with what the judge says of the same samples; without one as they are."""
        return prediction if self.blend is None else self.blend(prediction, self.judged(inputs))

    @torch.no_grad()
    def judged(self, inputs: Inputs) -> Tensor:
        """What the judge says, ``[B, 2E]`` in standard deviations of the evaluators' scores: as it stands behind the
        scalars, or asked now."""
        assert self.judge is not None
        own = len(self.spec.scalars)
        if inputs.scalars is not None and inputs.scalars.shape[1] > own:
            raw = inputs.scalars[:, own:].float()
        else:
            assert inputs.tokens is not None
            assert inputs.token_mask is not None
            share = inputs.step.float() / self.spec.total_steps
            tokens, mask = inputs.spread(inputs.tokens), inputs.spread(inputs.token_mask)
            raw = self.judge.scores(inputs.features[JUDGED], share, tokens, mask)
        return torch.cat([self.standardised(answer) for answer in raw.chunk(QUESTIONS, dim=1)], dim=1)

    def _standardised_scalars(self, inputs: Inputs) -> Tensor:
        assert self.scalars is not None
        assert inputs.scalars is not None
        scalars: Tensor = self.scalars(inputs.scalars[:, : len(self.spec.scalars)])
        return scalars

    def features(self, inputs: Inputs) -> Tensor:
        """What a head reads that has one way only: ``[B, F]``, where there are scalars with them at the end."""
        features: Tensor = self.encoder(inputs)
        return features if self.scalars is None else torch.cat([features, self._standardised_scalars(inputs)], dim=1)

    def alignment(self, output: Output, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Embedding and pooled text in their common space for InfoNCE, ``[B, embedding]`` each.

        u has a projection of its own: InfoNCE wants the samples of a prompt in one place, ranking wants them
        apart. A head that reads the prompt compares u with e, so these two are in one space already.
        """
        if output.text is not None:
            return output.embedding, output.text
        assert self.align_embedding is not None
        assert self.align_text is not None
        assert inputs.text is not None
        return self.align_embedding(output.embedding), inputs.spread(self.align_text(inputs.text.float()))

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> Tensor:
        """Scores ``[B, E]`` in the units of ``spec.evaluators``; a sample's do not depend on the others in
        the batch.

        Raises:
            ProbeError: inputs that the probe needs are missing or of another shape.
        """
        self._check(inputs)
        training = self.training
        self.eval()
        with torch.autocast(self.target_mean.device.type, enabled=False):  # one around it would round the scores
            prediction = self.blended(self(inputs).prediction, inputs)
        self.train(training)
        return self.in_units(prediction)

    def in_units(self, prediction: Tensor) -> Tensor:
        """Raw scores ``[B, E]`` of what ``blended`` gives."""
        return self.target_mean + self.target_std * (self.target_shift + self.target_slope * prediction)

    def calibrate(self, prediction: Tensor, target: Tensor) -> None:
        """Least-squares affine map from predictions to standardised targets, ``[n, E]`` of prompts that the probe was
        not trained on.

        A ranking loss fixes only the order of predictions; this gives them units and changes no order: an
        evaluator whose slope would not be positive, or whose predictions are all the same, keeps the scale
        that it has, and is ``unscaled``.
        """
        centred = prediction.double() - prediction.double().mean(dim=0)
        variance = centred.square().mean(dim=0)
        slope = (centred * target.double()).mean(dim=0) / variance.clamp_min(torch.finfo(torch.float64).tiny)
        shift = target.double().mean(dim=0) - slope * prediction.double().mean(dim=0)
        usable = (variance > 0) & (slope > 0)
        self.target_slope.copy_(torch.where(usable, slope, 1.0))
        self.target_shift.copy_(torch.where(usable, shift, 0.0))
        kept = usable.tolist()
        self.unscaled = tuple(name for name, line in zip(self.spec.evaluators, kept, strict=True) if not line)

    def _check(self, inputs: Inputs) -> None:
        for tap, shape in self.spec.taps.items():
            if tap not in inputs.features:
                raise ProbeError(f"the probe reads '{tap}', which was not given: {nearest(tap, inputs.features)}")
            given = tuple(inputs.features[tap].shape[1:])
            if given != shape:
                raise ProbeError(f"tap '{tap}' has the shape {given} and the probe was trained on {shape}")
        self._check_scalars(inputs.scalars)
        wanted = {
            "text": (inputs.text, self.spec.needs_text),
            "tokens": (inputs.tokens, self.spec.needs_tokens),
        }
        wanted["token_mask"] = (inputs.token_mask, self.spec.needs_tokens)
        for name, (value, needed) in wanted.items():
            if needed and value is None:
                raise ProbeError(f"the probe reads the prompt and was given no {name}: pass Inputs.{name}")

    def _check_scalars(self, scalars: Tensor | None) -> None:
        own = len(self.spec.scalars)
        widths = {own, own + QUESTIONS * len(self.spec.evaluators)} if self.spec.judge else {own}
        lacks = bool(own) and scalars is None
        if lacks or (scalars is not None and (own or self.spec.judge) and scalars.shape[1] not in widths):
            had = "none" if scalars is None else f"those of shape {tuple(scalars.shape)}"
            names = ", ".join(self.spec.scalars) or "no scalars"
            raise ProbeError(f"the probe reads {names} and was given {had}: pass Inputs.scalars")
