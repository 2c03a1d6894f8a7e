"""Let a stock pipeline that is under way finish some of its images.

A pipeline keeps latents, embeddings and the state of its scheduler in places that nobody outside can reach in every
family. So these keep all their rows, and only what costs anything is narrowed: the denoiser is given the kept rows, and
its output is put back among zeros (``PipelineCall.keep``); the autoencoder decodes the kept rows. What a scheduler does
to the others is a few additions of zeros, and its own state, whatever it is, stays that of the whole call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.capture.call import PipelineCall
from probe_lab.capture.listen import around_method


def decode_only(pipe: DiffusionPipeline, call: PipelineCall, rows: Callable[[], Tensor], stack: ExitStack) -> None:
    """Until ``stack`` is closed the pipeline's autoencoder is given these rows of the latents, int64, in their order;
    what others decode with it stays theirs."""

    def decode(original: Callable[..., Any], latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        return original(latents[rows().to(latents.device)], *args, **kwargs)

    stack.callback(around_method(pipe.vae, "decode", call.around_own(decode)))
