"""What a probe is, without its weights: enough to build it again, and to know what it may be given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe_lab.config import Head
from probe_lab.data.scalars import Scalar, looks_ahead
from probe_lab.errors import ProbeError
from probe_lab.probes.kinds import ATTENTION, ProbeKind, built_as

TextMode = Literal["none", "pooled", "tokens"]
TensorShape = tuple[int, int, int]
JUDGED = "x0"
"""The tap that a picture judge reads."""


@dataclass(frozen=True)
class ProbeSpec:
    """The architecture of a probe and the place that it reads.

    ``kind`` is the name of the ``ProbeKind`` that it is built as. ``taps`` maps tap strings to their shapes (C, H, W),
    in the order in which they are read. ``step`` is 1-based, of ``total_steps``. ``text_dim`` is the width of the
    pooled text embedding and ``token_dim`` that of the token embeddings, ``tokens`` their number; 0 where the probe was
    built without. ``dropout`` acts in training only. ``aligned`` probes have a text projection (InfoNCE).
    ``scalars`` are the numbers that it reads beside its taps, such as ``preview:<evaluator>``. The ``head`` of a
    ``cnn`` reads u, or with "text" also the prompt's embedding. ``steps`` are all that it was trained on where there
    are several; ``step`` is then the one that it was evaluated at.
    ``text_encoder`` says whose embeddings these are: the backbone's, or an evaluator's by its name.

    Raises:
        ProbeError: a combination that cannot be built.
    """

    kind: str
    taps: dict[str, TensorShape]
    evaluators: tuple[str, ...]
    step: int
    total_steps: int
    text: TextMode = "none"
    text_dim: int = 0
    token_dim: int = 0
    tokens: int = 0
    width: int = 64
    depth: int = 2
    embedding: int = 128
    dropout: float = 0.1
    aligned: bool = False
    backbone: str = ""
    cache: str = ""
    text_encoder: str = "backbone"
    scalars: tuple[str, ...] = ()
    head: Head = "plain"
    steps: tuple[int, ...] = ()
    judge: bool = False

    def __post_init__(self) -> None:
        kind = self.built_as
        if not kind.encoder:
            if self.taps or self.evaluators != tuple(each.evaluator for each in self.previews):
                raise ProbeError(
                    f"a preview predicts its scalars, {list(self.scalars)}, and was given the evaluators "
                    f"{list(self.evaluators)} and the taps {list(self.taps)}: give the scalars' own, and no taps"
                )
            return
        if not self.taps and kind.reads != ():
            raise ProbeError("the probe has no taps to read: name at least one in probe.taps")
        lacking = "pooled text" if (self.needs_text or self.aligned) and not self.text_dim else ""
        lacking = lacking or ("token" if self.needs_tokens and not self.token_dim else "")
        if lacking:
            raise ProbeError(
                f"a {self.kind} probe (probe.text={self.text}) needs {lacking} embeddings and has none: "
                "set probe.text=none, probe.head=plain and a loss without infonce, or generate with a backbone that "
                "has them"
            )
        if self.scalars and not kind.reads_scalars:
            raise ProbeError(f"a {self.kind} probe reads no scalars: remove {', '.join(self.scalars)}")
        if self.judge and not (kind.reads_scalars and JUDGED in self.taps):
            raise ProbeError(
                f"a {self.kind} probe of {list(self.taps)} has no use for a picture judge, which reads {JUDGED}: set "
                f"probe.judge=false, or use cnn or linear with {JUDGED} among probe.taps"
            )
        if kind.reads == "attention" and self.other_taps:
            raise ProbeError(f"{self.kind} reads attention only: remove {self.other_taps} from its taps")
        counts = {tap: self.taps[tap][0] for tap in self.attention_taps}
        expected = self.tokens if self.encoder_reads_tokens else next(iter(counts.values()), 0)
        for tap, count in counts.items():
            if count != expected and kind.text == "chosen":
                other = "the text encoder" if self.encoder_reads_tokens else next(iter(counts))
                raise ProbeError(
                    f"tap '{tap}' has {count} tokens and {other} has {expected}: "
                    "use taps of one tokenizer together, and probe.text=pooled where tokens cannot match"
                )

    @property
    def built_as(self) -> ProbeKind:
        """How it is built and trained; ConfigError where the module of a kind of the user's own is not there."""
        return built_as(self.kind)

    @property
    def attention_taps(self) -> list[str]:
        """Taps whose channels are prompt tokens."""
        return [tap for tap in self.taps if tap.endswith(ATTENTION)]

    @property
    def other_taps(self) -> list[str]:
        return [tap for tap in self.taps if not tap.endswith(ATTENTION)]

    @property
    def numbers(self) -> int:
        """How many numbers the head reads beside the embedding."""
        return len(self.scalars)

    @property
    def previews(self) -> tuple[Scalar, ...]:
        """Which scores of which decoded latents the scalars are, in their order."""
        return tuple(Scalar.parse(scalar) for scalar in self.scalars)

    @property
    def trained_steps(self) -> tuple[int, ...]:
        """The steps at which its predictions mean something."""
        return self.steps or (self.step,)

    @property
    def looks_ahead(self) -> bool:
        """Whether what it reads takes one more denoiser call for each candidate."""
        return looks_ahead(self.taps, self.previews)

    @property
    def is_costly(self) -> bool:
        """Whether what it reads is made for each candidate, instead of captured."""
        return bool(self.scalars) or self.looks_ahead

    @property
    def reads_prompt(self) -> bool:
        """Whether the head reads the prompt's embedding beside that of the image."""
        return self.head == "text" and self.built_as.text == "chosen"

    @property
    def needs_text(self) -> bool:
        """Whether predictions depend on the text embeddings."""
        return self.judge or self._reads_text(self.text != "none" or self.head == "text")

    @property
    def needs_tokens(self) -> bool:
        """Whether predictions depend on the token embeddings."""
        return self.judge or self.encoder_reads_tokens

    @property
    def encoder_reads_tokens(self) -> bool:
        """Whether the encoder does, whatever stands beside it."""
        return self._reads_text(self.text == "tokens")

    def _reads_text(self, chosen: bool) -> bool:
        text = self.built_as.text
        return text == "always" or (text == "chosen" and chosen)
