"""Models of text in the Python interface: their prompts, and texts that were encoded before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.pretrained import TEXT_ENCODER
from dioscuri.data.text_encoder import TextSource
from dioscuri.data.texts import DECODER_TEXT, open_texts
from dioscuri.engine import Array
from dioscuri.errors import UserError, kind_of
from dioscuri.face.text_reader import read_texts
from dioscuri.families.maskgit.prompts import (
    NULL,
    READING,
    PromptReader,
    encode_prompts,
    reading_of,
)
from dioscuri.families.token_models.face import TokenModel
from dioscuri.families.token_models.texts import N_MICRO
from dioscuri.files import read_path
from dioscuri.inputs import check_lengths, check_names, to_array


class ModelOfTexts(TokenModel):
    """A token model that may read texts; see `MaskGITModel`."""

    _reader: PromptReader | None = None

    @property
    def reads_prompts(self) -> bool:
        """Whether a text encoder is there, so that calls take `prompts`."""
        return self._reader is not None

    def read_with(self, source: TextSource) -> None:
        """Use this text encoder for prompts; a `UserError` if the model reads no text."""
        if "text" not in self._condition_names:
            super().read_with(source)
        self._reader = PromptReader(source, self.hparams, self._condition_names)
        if self._decoder_reads_text:
            self._codec().read_with(source)

    def save(self, folder: Path | str) -> None:
        """See `Model.save`; the text encoder goes to `text_encoder/`."""
        folder = read_path(folder, "save takes a folder")
        super().save(folder)
        if self._reader is not None:
            self._reader.save(folder / TEXT_ENCODER, self._text_device)

    def encode_prompts(
        self, prompts: Any, negative_prompts: Any = None, *, n: int | None = None, **reading: Any
    ) -> dict[str, Array]:
        """Encoded prompts, the arrays by name that `texts=` takes in either twin.

        `text` (N, S, E) holds the text encoder's states, `pooled` (N, P) its pooled state, `null.<name>`
        those of the negative prompts, `micro` (N, 5) the micro-conditions, `decoder_text` (N, S, E) the
        states that the tokenizer's decoder reads, if it does. Options: `clip_skip`, how many of the encoder's
        last layers are skipped; `size` (width, height) of the pictures before they were cropped, by default
        that of the model's pictures; `crop` (top, left), default (0, 0); `aesthetic_score`, default that of
        the published configuration or 6. A prompt that is too long is cut, with a warning. The text encoder
        is run by PyTorch, for JAX on the CPU.
        """
        if self._reader is None:
            if "text" not in self._condition_names:
                raise UserError("this model reads no texts: it takes no prompts")
            raise UserError(
                "this model has no text encoder to read prompts: name one, a folder or hub id, with "
                "text_encoder= of load or --text-encoder, or give encoded texts as texts="
            )
        check_names(reading, READING, "encode_prompts: option")
        options = reading_of({**self.call_options.get("encode_prompts", {}), **reading}, "encode_prompts")
        texts = read_texts(prompts, "prompts", n=n)
        count, negative = len(texts), negative_prompts
        if negative is not None:
            negative = read_texts(negative, "negative_prompts", n=count, empty=True)
        device = self._text_device
        rows = encode_prompts(self._reader, (texts, negative), options.clip_skip, device)
        if "micro" in self._condition_names:
            H, W = self.picture_shape[:2]
            rows["micro"] = np.tile(options.micro((W, H)), (count, 1))
        if self._decoder_reads_text:
            rows[DECODER_TEXT] = self._reader.states(texts, -1, device)["text"]
        return rows

    @property
    def _text_device(self) -> Any:
        """The device of the text encoder, which PyTorch runs."""
        return self.device if self.twin == "torch" else "cpu"

    def _check_free(self, folder: Path) -> None:
        super()._check_free(folder)
        if self._reader is None and (folder / TEXT_ENCODER).exists():
            raise UserError(
                f"{folder} holds a text encoder, which this model lacks: save elsewhere, or remove it"
            )

    def _prompted(
        self, call: str, n: int | None, prompts: tuple[Any, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Options of a call with its prompts, and negative ones, as `texts`."""
        given, (positive, negative) = dict(options), prompts
        reading = {name: given.pop(name) for name in READING if name in given}
        if positive is None:
            alone = [*(["negative_prompts"] if negative is not None else []), *reading]
            if alone:
                raise UserError(f"{call}: {alone[0]} goes with prompts: give them too")
            return given
        if given.get("texts") is not None:
            raise UserError(f"{call}: give prompts or texts, not both")
        scale = given.get("guidance_scale", self.hparams.synthesis.guidance_scale)
        if negative is not None and not scale:
            raise UserError(f"{call}: negative_prompts need guidance: give guidance_scale above 0")
        return given | {"texts": self.encode_prompts(positive, negative, n=n, **reading)}

    def _texts(self, texts: Any, n: int | None) -> dict[str, Array]:
        if "text" not in self._condition_names:
            return super()._texts(texts, n)
        if isinstance(texts, str | Path):
            opened = open_texts(read_path(texts, "texts takes arrays or a folder"))
            count = min(len(opened), 16) if n is None else n
            texts = opened.gather(np.arange(count) % len(opened))
        if not isinstance(texts, Mapping):
            raise UserError(
                "texts must be encoded: arrays by name, or the folder that data_scripts/encode_text.py "
                f"wrote; got {kind_of(texts)}; prompts= takes plain texts"
            )
        rows = self._text_rows(texts)
        check_lengths(rows)
        missing = [name for name in self._condition_names if name != "label" and name not in rows]
        if missing:
            raise UserError(f"texts lack {', '.join(missing)}, which the model reads")
        if n is not None and len(rows["text"]) not in (1, n):
            raise UserError(
                f"texts hold {len(rows['text'])} rows for {n} pictures: give {n} texts, or one for all"
            )
        return (
            rows
            if n is None
            else {name: np.resize(array, (n, *array.shape[1:])) for name, array in rows.items()}
        )

    def _text_rows(self, given: Mapping[str, Any]) -> dict[str, Array]:
        model = self.hparams.model
        widths = {
            "text": (model.encoder_hidden_size,),
            "pooled": (model.cond_embed_dim,),
            "micro": (N_MICRO,),
        }
        names = ("text", "text_mask", "pooled", "micro")
        known: list[str] = [name for name in names if name in self._names]
        known += [NULL + name for name in known if name != "micro"]
        known += [DECODER_TEXT] if self._decoder_reads_text else []
        check_names(given, known, "texts:")
        rows = {}
        for full, value in given.items():
            if full == DECODER_TEXT:
                rows[full] = self._codec().read_text(value, what=f"texts: '{full}'")
                continue
            array = to_array(value, f"texts: '{full}' must be an array")
            name = full.removeprefix(NULL)
            rank, width = (3, widths[name]) if name == "text" else (2, widths.get(name, array.shape[1:]))
            if array.ndim != rank or array.shape[-1:] != width[-1:]:
                axes = f"(N, T, {width[0]})" if name == "text" else f"(N, {width[-1]})"
                raise UserError(f"texts: '{full}' must be {axes}; got {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise UserError(f"texts: '{full}' holds values that are not finite")
            rows[full] = array.astype(bool if name == "text_mask" else np.float32)
        for name in (name for name in rows if name.startswith(NULL)):
            positive = name.removeprefix(NULL)
            if positive not in rows or rows[name].shape[1:] != rows[positive].shape[1:]:
                raise UserError(f"texts: '{name}' goes with '{positive}', which must be there in that shape")
        return rows
