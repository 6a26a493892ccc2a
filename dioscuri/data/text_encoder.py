"""Text encoders of transformers, CLIP and T5, which run in PyTorch for both twins."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError

from dioscuri.data.texts import DECODER_TEXT
from dioscuri.errors import UserError
from dioscuri.files import replacing_folder

Array = np.ndarray

CONFIG = "config.json"
LONGEST = 512
"""Tokens of a text if neither encoder nor tokenizer limits them (T5)."""


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Folders or hub ids of a text encoder and its tokenizer; without `tokenizer`, they are together."""

    encoder: str
    tokenizer: str = ""


def text_source(folder: Path, where: str) -> TextSource:
    """The text encoder in a folder, or in `text_encoder` and `tokenizer` of a pipeline's folder; a
    `UserError` that begins with `where` if there is none."""
    inside = folder / "text_encoder"
    encoder = inside if (inside / CONFIG).is_file() else folder
    if not (encoder / CONFIG).is_file():
        raise UserError(
            f"{where} '{folder}' holds no text encoder: give a folder with {CONFIG}, model.safetensors and "
            "the tokenizer's files"
        )
    tokenizer = encoder.parent / "tokenizer"
    apart = not (encoder / "tokenizer_config.json").is_file() and tokenizer.is_dir()
    return TextSource(encoder=str(encoder), tokenizer=str(tokenizer) if apart else "")


class TextEncoder:
    """A CLIP or T5 text encoder of transformers with its tokenizer; weights are safetensors files only.

    `length` is the number of tokens of a text, 0: as many as encoder and tokenizer allow. `layer` counts
    hidden states from the end: -1 is the last one, after the final norm; open-muse reads CLIP at -2. `pooled`
    adds CLIP's projected embedding, `last` the last state as `decoder_text`. `tokenizer` is a folder or hub
    id, empty: that of the encoder.
    """

    def __init__(
        self,
        name: str,
        *,
        length: int,
        layer: int,
        pooled: bool,
        device: Any,
        tokenizer: str = "",
        last: bool = False,
    ) -> None:
        self.name, self.layer, self.pooled, self.last = name, layer, pooled, last
        config, model, missing, self.tokenizer = _opened(name, tokenizer or name)
        unused = () if pooled else ("text_projection.weight",)
        if lacking := sorted(missing.difference(unused)):
            raise UserError(
                f"encoder {name} is incomplete: its weights lack '{lacking[0]}', which config.json asks for"
            )
        self.is_clip = "clip" in config.model_type
        if pooled and not self.is_clip:
            raise UserError(f"encoder {name} has no pooled state: only CLIP has one; leave pooled out")
        limit = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise UserError(f"length {length} is too long for encoder {name}: give at most {limit}")
        self.length = length or min(limit or LONGEST, self.tokenizer.model_max_length, LONGEST)
        self.device = device
        self.model = model.eval().requires_grad_(False).to(device)
        self.depth = len(self._states(self._ids([""])).hidden_states)
        if not -self.depth <= layer < 0:
            raise UserError(f"layer {layer} is outside -{self.depth} ... -1, the hidden states of {name}")

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, with those that mark its ends, before it is cut to `length`."""
        return [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]

    def save(self, folder: Path) -> None:
        """Write encoder and tokenizer to a folder, from which both open, in place of what it holds."""
        try:
            with replacing_folder(folder, overwrite=True) as temporary:
                self.model.save_pretrained(temporary, safe_serialization=True)
                self.tokenizer.save_pretrained(temporary)
        except SafetensorError as error:  # the disk is full
            raise UserError(f"{folder} cannot be written: {_first_line(error)}") from error

    def to(self, device: Any) -> Self:
        """Move the encoder to a device of PyTorch, in place."""
        if device != self.device:
            self.device, self.model = device, self.model.to(device)
        return self

    def __call__(self, texts: Sequence[str], layer: int | None = None) -> dict[str, Array]:
        """`text` (B, S, E) float32, `text_mask` (B, S) bool and, if requested, `pooled` (B, P) float32 and
        `decoder_text` (B, S, E) float32.

        `layer` replaces the encoder's.
        """
        ids, layer = self._ids(texts), self.layer if layer is None else layer
        made = self._states(ids)
        states = made.last_hidden_state if layer == -1 else made.hidden_states[layer]
        encoded = {"text": _numpy(states), "text_mask": _numpy(ids["attention_mask"]).astype(bool)}
        encoded |= {DECODER_TEXT: _numpy(made.last_hidden_state)} if self.last else {}
        return encoded | ({"pooled": _numpy(made.text_embeds)} if self.pooled else {})

    def _ids(self, texts: Sequence[str]) -> dict[str, Any]:
        given = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {name: given[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def _states(self, ids: dict[str, Any]) -> Any:
        # CLIP is run without a padding mask, as in its training and in open-muse.
        given = {"input_ids": ids["input_ids"]} if self.is_clip else ids
        return self.model(**given, output_hidden_states=True)


def _numpy(tensor: Any) -> Array:
    return np.asarray(tensor.float().cpu().numpy())


def _opened(name: str, tokenizer: str) -> tuple[Any, Any, set[str], Any]:
    """Configuration and model of an encoder, the names of weights that it lacks, and its tokenizer."""
    if lacking := [library for library in ("torch", "transformers") if find_spec(library) is None]:
        raise UserError(f"a text encoder needs {' and '.join(lacking)}: pip install 'dioscuri[torch,text]'")
    import transformers  # noqa: PLC0415 - takes seconds, and only text encoders need it

    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kinds: dict[str, Any] = {"t5": transformers.T5EncoderModel, "mt5": transformers.MT5EncoderModel}
        kinds |= dict.fromkeys(("clip", "clip_text_model"), transformers.CLIPTextModelWithProjection)
        if config.model_type not in kinds:
            raise UserError(
                f"encoder {name} is of unknown type '{config.model_type}'; known: {', '.join(kinds)}"
            )
        model, loaded = kinds[config.model_type].from_pretrained(
            name, use_safetensors=True, output_loading_info=True
        )
        reader = transformers.AutoTokenizer.from_pretrained(tokenizer)
    except UserError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise errors of many kinds
        raise UserError(
            f"encoder {name} cannot be opened ({_first_line(error)}): give a folder with config.json, "
            "model.safetensors and the tokenizer's files, or a hub id and a network"
        ) from error
    return config, model, {str(key) for key in loaded["missing_keys"]}, reader


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
