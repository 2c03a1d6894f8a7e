"""What a CLIP is beside its weights: read from its folder or repository, or one of the names that open_clip knows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from transformers import CLIPConfig

from probe_lab.errors import ConfigError, ScoreError, nearest
from probe_lab.evaluators.base import Settings
from probe_lab.evaluators.checkpoints import Checkpoint, Key
from probe_lab.evaluators.clip_keys import ACTIVATIONS, open_clip_config
from probe_lab.evaluators.clip_tokens import FILES as TOKENIZER_FILES
from probe_lab.evaluators.clip_tokens import tokenizer_folder
from probe_lab.evaluators.model import Transform
from probe_lab.evaluators.preprocessing import CLIP_MEAN, CLIP_STD, clip_transform
from probe_lab.json_text import read_json
from probe_lab.regular_files import regular

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
OWN_CONFIG, THEIR_CONFIG, THEIR_PICTURES = "open_clip_config.json", "config.json", "preprocessor_config.json"

_UNSUPPORTED = {
    "model_cfg": ("custom_text", "multimodal_cfg"),
    "text_cfg": ("hf_model_name", "tokenizer_mode", "tokenizer_kwargs"),
    "vision_cfg": ("timm_model_name",),
}
"""Keys of open_clip's configs that make something else than a CLIP of it, or another tokenizer."""


@dataclass(frozen=True)
class ClipSpec:
    """What a CLIP is beside its weights: ``config`` is open_clip's ``model_cfg``, ``tokenizer`` a folder of files.

    ``name`` is the architecture's, or names the config file by its content; ``cleaned`` is that of ``own_tokenizer``.
    """

    name: str
    config: dict[str, Any]
    transform: Transform
    tokenizer: Path | None = None
    cleaned: bool = True

    @property
    def tokenizer_words(self) -> str:
        """Which tokenizer reads the prompts: OpenAI's, or that of these files, by their content."""
        if self.tokenizer is None:
            return "OpenAI's"
        files = [self.tokenizer / file for file in TOKENIZER_FILES]
        content = b"".join(file.name.encode() + file.read_bytes() for file in files if file.is_file())
        mended = "mended text" if self.cleaned else "text as it is"
        return f"{hashlib.sha256(content).hexdigest()[:16]}, {mended}"

    @property
    def width(self) -> int:
        """Of the embeddings that pictures and prompts share."""
        return int(self.config["embed_dim"])


def read_spec(settings: Settings, checkpoint: Checkpoint, default: str, key: Key = "checkpoint") -> ClipSpec:
    """What the checkpoint is: as its folder or repository says, else the configured architecture, else ``default``.

    ``default`` is for single files alone.

    Raises:
        ConfigError: an unknown architecture, or one beside a folder that says its own.
        ScoreError: a folder that does not say it, or a model that is no CLIP of open_clip.
    """
    architecture = settings.model.architecture
    single = Path(getattr(settings.model, key)).expanduser().is_file()
    if not (single and architecture):
        own = _of_open_clip(checkpoint) or _of_transformers(checkpoint)
        if own and architecture:
            raise ConfigError(
                f"'scoring.models.{settings.name}.architecture' is '{architecture}', and {checkpoint.path.parent} says "
                "itself what it is: leave architecture empty"
            )
        if own:
            return own
        if not single and not architecture:
            raise ScoreError(
                f"{checkpoint.path.parent} has neither {OWN_CONFIG} nor CLIP's {THEIR_CONFIG}: "
                f"set scoring.models.{settings.name}.architecture, {default} for instance"
            )
    return named_spec(architecture or default)


def named_spec(architecture: str) -> ClipSpec:
    """Of a name that open_clip knows, with OpenAI's tokenizer. ConfigError for another; ScoreError if it is no CLIP."""
    config = open_clip.get_model_config(architecture)
    if config is None:
        known = open_clip.list_models()
        close = nearest(architecture, known).partition(" (")[0]  # without the list of all: there are 140
        raise ConfigError(
            f"open_clip knows no architecture '{architecture}'"
            + (f": {close}" if close.startswith("did") else ": ViT-B-16, ViT-B-32, ViT-L-14 and ViT-H-14 are some")
        )
    return _of_config(architecture, config, {}, architecture)


def _of_open_clip(checkpoint: Checkpoint) -> ClipSpec | None:
    path = checkpoint.beside(OWN_CONFIG)
    if path is None:
        return None
    content = _read(path)
    if not isinstance(content.get("model_cfg"), dict):
        raise ScoreError(f"{path} holds no model_cfg: it is not what open_clip writes")
    folder = None
    if content["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name"):
        folder = tokenizer_folder(checkpoint)
        if folder is None:
            raise ScoreError(f"{path} names a tokenizer of its own, which does not lie beside it: fetch its files too")
    return _of_config(_name(path), content["model_cfg"], content.get("preprocess_cfg", {}), str(path), folder)


def _of_transformers(checkpoint: Checkpoint) -> ClipSpec | None:
    path = checkpoint.beside(THEIR_CONFIG)
    if path is None or _read(path).get("model_type") != "clip":
        return None
    config = CLIPConfig.from_json_file(path)
    acts = {config.text_config.hidden_act, config.vision_config.hidden_act}
    if len(acts) > 1 or not acts <= ACTIVATIONS.keys():
        raise ScoreError(
            f"{path} has the activation {' and '.join(sorted(acts))}: a CLIP has one of {', '.join(ACTIVATIONS)} in "
            "both towers"
        )
    pictures = checkpoint.beside(THEIR_PICTURES)
    told = _read(pictures) if pictures else {}
    preprocess = {"mean": told.get("image_mean"), "std": told.get("image_std")}
    folder = tokenizer_folder(checkpoint)
    return _of_config(_name(path), open_clip_config(config), preprocess, str(path), folder, cleaned=False)


def _of_config(
    name: str,
    config: dict[str, Any],
    preprocess: dict[str, Any],
    source: str,
    tokenizer: Path | None = None,
    *,
    cleaned: bool = True,
) -> ClipSpec:
    parts = {"model_cfg": config, "text_cfg": config.get("text_cfg", {}), "vision_cfg": config.get("vision_cfg", {})}
    other = [key for part, keys in _UNSUPPORTED.items() for key in keys if parts[part].get(key)]
    size = parts["vision_cfg"].get("image_size", 224)
    size = size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else size
    fit, interpolation = preprocess.get("resize_mode", "shortest"), preprocess.get("interpolation", "bicubic")
    if not isinstance(size, int):
        other.append(f"image_size {size}")
    if fit not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        other.append(f"preprocess_cfg {fit}, {interpolation}")
    if other:
        raise ScoreError(f"{source} is not a plain CLIP of square pictures ({', '.join(other)}): name one that is")
    mean, std = preprocess.get("mean") or CLIP_MEAN, preprocess.get("std") or CLIP_STD
    transform = clip_transform(size, mean, std, interpolation=interpolation, fit=fit)
    return ClipSpec(name, config, transform, tokenizer, cleaned)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScoreError(f"{path} cannot be read ({error}): fetch it again") from error
    return content if isinstance(content, dict) else {}


def _name(path: Path) -> str:
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
