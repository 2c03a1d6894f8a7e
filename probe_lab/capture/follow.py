"""Follow the calls of a pipeline, and tell what it calls itself from what others do with the parts that they share."""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor, nn

from probe_lab.backbones.family import Family
from probe_lab.backbones.token_grid import Arguments
from probe_lab.capture.batch_rows import batch_of, copies_of, taken, widened
from probe_lab.capture.listen import Undo, around_call, around_method, before_method, before_module
from probe_lab.errors import CaptureError

_CALLBACKS = ("callback_on_step_end", "callback")
"""Arguments of pipelines that are functions of the user."""


class Listener(Protocol):
    """Who is told what happens in a call of the pipeline, in this order; ``begin`` and ``end`` once."""

    def begin(self, state: CallState) -> None: ...

    def start(self) -> None: ...

    def before_denoiser(self, arguments: Arguments) -> None: ...

    def after_denoiser(self, succeeded: bool) -> None: ...

    def before_step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> None: ...

    def end(self) -> None: ...


@dataclass
class CallState:
    """What is known of a call of the pipeline.

    Attributes:
        thread: where it runs.
        images: how many are drawn: prompts × images per prompt.
        kept: which of them the denoiser is still given, int64, rising; None: all.
        steps: of the schedule; 0 until it is set.
        step: the 1-based one in progress, 0 before the first.
        in_step: a denoiser call was made since the last step of the scheduler.
        encoded: per text encoder, token ids and attention mask.
        text: what the denoiser was given to attend to in its first call, and the version of that tensor, which counts
            changes in place (None where torch keeps none).
        aside: a function of the user, or a part of the pipeline, is at work: what it calls is its own affair.
        denoising: denoiser calls that have not returned: the pipeline's own, and those within it.
        batch: rows that the pipeline gave to its denoiser call.
        reporting: its denoiser call is the one with the prompt.
    """

    thread: int
    listeners: tuple[Listener, ...] = ()
    images: int = 0
    kept: Tensor | None = None
    steps: int = 0
    step: int = 0
    in_step: bool = False
    has_prompt: bool | None = None
    encoded: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    text: Tensor | None = None
    text_version: int | None = None
    aside: bool = False
    denoising: int = 0
    batch: int = 0
    reporting: bool = False


class Follower:
    """Follows the calls of ``pipe`` while anybody listens; there is one for each pipeline.

    A call of a part is the pipeline's own between the pipeline's start and its return, in its thread, outside callbacks
    and outside the denoiser, the scheduler and the autoencoder, which may be the user's and call what they like.
    """

    def __init__(self, pipe: DiffusionPipeline, family: Family) -> None:
        self._pipe = pipe
        self._family = family
        self._denoiser = family.denoiser_of(pipe)
        # Of its class: what somebody put in the place of its own forward may take anything.
        self._signature = inspect.signature(types.MethodType(type(self._denoiser).forward, self._denoiser))
        self._listeners: list[Listener] = []
        self._state: CallState | None = None
        self._hooks = ExitStack()

    @classmethod
    def of(cls, pipe: DiffusionPipeline, family: Family) -> Self:
        """The follower that the pipeline has, or a new one."""
        there = vars(type(pipe)).get("followed_by")
        return there if isinstance(there, cls) and there._pipe is pipe else cls(pipe, family)

    def tell(self, listener: Listener) -> Undo:
        """Tell ``listener`` of every call that begins from now on."""
        if not self._listeners:
            with ExitStack() as stack:  # undone at once if a hook cannot be placed
                self._watch(stack)
                self._hooks = stack.pop_all()
        self._listeners.append(listener)

        def undo() -> None:
            self._listeners.remove(listener)
            if not self._listeners:
                self._hooks.close()

        return undo

    @property
    def is_own(self) -> bool:
        """Whether what is called here and now is called by the pipeline itself."""
        return self._own() is not None

    @property
    def is_reading(self) -> bool:
        """Whether the pipeline's own denoiser call is at work here, and not one that somebody makes within it."""
        state = self._here()
        return state is not None and state.denoising == 1 and not state.aside

    def around_own(self, stand_in: Callable[..., Any]) -> Callable[..., Any]:
        """For ``around_method`` of a part: ``stand_in`` for the pipeline's own calls, which are then aside."""

        @functools.wraps(stand_in)
        def called(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = self._own()
            if state is None:
                return original(*args, **kwargs)
            with _aside(state):
                return stand_in(original, *args, **kwargs)

        return called

    def _here(self) -> CallState | None:
        """The call in progress, in its own thread."""
        state = self._state
        return state if state is not None and state.thread == threading.get_ident() else None

    def _own(self) -> CallState | None:
        """The call in progress, where what is called now is called by the pipeline."""
        state = self._here()
        return None if state is None or state.aside or state.denoising else state

    def _watch(self, stack: ExitStack) -> None:
        pipe, scheduler = self._pipe, self._pipe.scheduler
        stack.callback(around_call(pipe, self._called, followed_by=self))
        stack.callback(before_method(pipe, "encode_prompt", self._encode_prompt))
        stack.callback(before_method(pipe, "prepare_latents", self._prepare_latents))
        stack.callback(around_method(scheduler, "set_timesteps", self.around_own(self._set_timesteps)))
        stack.callback(around_method(scheduler, "step", self.around_own(self._step)))
        for text in self._family.texts:
            encoder = getattr(pipe, text.encoder)
            if encoder is not None:
                stack.callback(before_module(encoder, self._encoding(text.encoder)))
        denoiser = self._denoiser
        # The first of all hooks, since others may call anything; the last one sees what they made of the arguments.
        stack.callback(denoiser.register_forward_pre_hook(self._enter_denoiser, prepend=True).remove)
        stack.callback(denoiser.register_forward_pre_hook(self._denoise, with_kwargs=True).remove)
        stack.callback(denoiser.register_forward_hook(self._denoised, with_kwargs=True, always_call=True).remove)

    def _each(self, state: CallState) -> Iterator[Listener]:
        return (listener for listener in state.listeners if listener in self._listeners)

    # What the pipeline does, in its order; the latents may be prepared before or after the timesteps are set.

    def _called(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._state is not None:  # within the call in progress, or in another thread
            state = self._here()
            with ExitStack() as stack:
                if state is not None:
                    stack.enter_context(_aside(state))
                return original(*args, **kwargs)
        self._state = state = CallState(threading.get_ident(), tuple(self._listeners))
        names = list(inspect.signature(original).parameters)[: len(args)]
        given = [_callback_aside(state, *pair) for pair in zip(names, args, strict=False)]
        named = {name: _callback_aside(state, name, value) for name, value in kwargs.items()}
        try:
            for listener in self._each(state):
                listener.begin(state)
            return original(*given, *args[len(given) :], **named)
        finally:
            self._state = state.text = None
            for listener in self._each(state):
                listener.end()

    def _encode_prompt(self, *args: Any, **kwargs: Any) -> None:
        state = self._own()
        if state is not None and state.has_prompt is None:  # what comes after the prompt is the negative prompt
            state.has_prompt = (args[0] if args else kwargs.get("prompt")) is not None

    def _encoding(self, encoder: str) -> Callable[..., None]:
        def receive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = self._own()
            if state is not None and state.has_prompt:
                ids = args[0] if args else kwargs["input_ids"]
                state.encoded.setdefault(encoder, (ids, kwargs.get("attention_mask")))

        return receive

    def _prepare_latents(self, *args: Any, **kwargs: Any) -> None:
        state = self._own()
        if state is not None:
            state.images = args[0] if args else kwargs["batch_size"]

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        assert self._state is not None
        self._state.steps = len(self._pipe.scheduler.timesteps)
        for listener in self._each(self._state):
            listener.start()
        return result

    def _enter_denoiser(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        state = self._here()
        if state is not None and (state.denoising or not state.aside):
            state.denoising += 1

    def _denoise(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.is_reading:
            return None
        state = self._state
        assert state is not None
        if not state.steps:
            raise CaptureError("the scheduler was exchanged inside the capture: exchange it before")
        arguments: Arguments = self._signature.bind(*args, **kwargs).arguments
        state.batch = batch_of(arguments)
        if state.kept is not None:
            arguments = taken(arguments, copies_of(state.kept, state.images, state.batch))
        if not state.in_step:
            state.step += 1
            state.in_step = state.reporting = True
            if state.step == 1:
                state.text = arguments.get("encoder_hidden_states")
                state.text_version = version_of(state.text)
            for listener in self._each(state):
                listener.before_denoiser(arguments)
        # By name, as pipelines give them: what wraps a forward, for the scale of LoRAs say, looks among the named ones.
        return None if state.kept is None else ((), dict(arguments))

    def _denoised(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        state = self._here()
        if state is None or not state.denoising:
            return None
        state.denoising -= 1
        if state.denoising:
            return None
        if state.reporting:
            state.reporting = False
            for listener in self._each(state):
                listener.after_denoiser(output is not None)
        if output is None or state.kept is None:  # None: it raised
            return None
        return widened(output, copies_of(state.kept, state.images, state.batch), state.batch)

    def _step(
        self,
        original: Callable[..., Any],
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        assert self._state is not None
        self._state.in_step = False
        for listener in self._each(self._state):
            listener.before_step(model_output, timestep, sample)
        return original(model_output, timestep, sample, *args, **kwargs)


def version_of(tensor: Tensor | None) -> int | None:
    """How often a tensor was changed in place; None for those of inference mode, which do not count it."""
    return None if tensor is None or tensor.is_inference() else tensor._version


@contextmanager
def _aside(state: CallState) -> Iterator[None]:
    """What is called inside is not the pipeline's own. Afterwards all is as before, also after an interruption."""
    before = state.aside, state.denoising
    state.aside = True
    try:
        yield
    finally:
        state.aside, state.denoising = before


class _CallbacksAside(MultiPipelineCallbacks):
    """Stands in for the callbacks that diffusers has classes for, which pipelines ask for their ``tensor_inputs``."""

    def __init__(self, called: Callable[..., Any], inputs: list[str]) -> None:
        super().__init__([called])
        self._inputs = inputs

    @property
    def tensor_inputs(self) -> list[str]:
        return self._inputs


def _callback_aside(state: CallState, name: str, value: Any) -> Any:
    """An argument of the pipeline; where it is a function of the user, one that does the same aside."""
    if name not in _CALLBACKS or value is None:
        return value

    def called(*args: Any, **kwargs: Any) -> Any:
        with _aside(state):
            return value(*args, **kwargs)

    if isinstance(value, PipelineCallback | MultiPipelineCallbacks):
        return _CallbacksAside(called, value.tensor_inputs)
    return called
