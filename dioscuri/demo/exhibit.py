"""A model that the demo shows: what it can do, its twin, and the text encoder of its prompts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.data.text_encoder import TextEncoder
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import Model
from dioscuri.twins import installed

TABS = (
    "generate",
    "inpaint",
    "outpaint",
    "edit",
    "reconstruct",
    "interpolate",
    "latents",
    "keep",
    "classify",
    "twins",
)
"""Everything that a tab can do; see `Exhibit.tabs`."""

AESTHETIC_SCORE = 6.0
"""Score that prompts ask for where a model reads one; diffusers has the same default for aMUSEd."""

N_FOR_SPREAD = 16


class Exhibit:
    """A model by its folder, hub id or shipped name, opened in one twin; the other is opened when it is used.

    Raises a `UserError` if the model cannot be opened or the demo has nothing to show of it.
    """

    def __init__(self, where: str, twin: str, encoder: str = "", layer: int = -1) -> None:
        self.where, self.twin = where, twin
        self.name = Path(where).name.removeprefix("logs-")
        self.model = _load(twin, where)
        self.encoder = self._open_encoder(encoder, layer) if self.reads_text and encoder else None
        self.models = {twin: self.model}
        if not self.tabs:
            raise UserError(
                f"{where}: the demo can show nothing of this model of family '{self.model.family}': it has "
                "no tokenizer beside it, or no text encoder (--text-encoder)"
            )

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(H, W, C) of pictures, or the shape of sounds and clips."""
        return self.model.picture_shape

    @property
    def takes_pictures(self) -> bool:
        """Whether pictures from a file can be given: grey or in colour, of 8 bits."""
        shape, data = self.picture_shape, self.model.hparams.data
        return len(shape) == 3 and shape[2] in (1, 3) and data.num_bits <= 8

    @property
    def writes_text(self) -> bool:
        """Whether the examples are texts."""
        return getattr(self.model, "writes_text", False)

    @property
    def reads_text(self) -> bool:
        """Whether a text conditions the model."""
        return "text" in self._conditions

    @property
    def reads_prompts(self) -> bool:
        """Whether prompts can be encoded, by the model's text encoder or by that of the command line."""
        return self.encoder is not None or getattr(self.model, "reads_prompts", False)

    @property
    def num_classes(self) -> int:
        """Number of classes that condition the model, 0 if there are none."""
        return int(getattr(self.model, "num_classes", 0))

    @property
    def asks_class(self) -> bool:
        """Whether the class of a given picture conditions its latents."""
        return bool(self.num_classes) and "interpolate" in self.model.does

    @property
    def _conditions(self) -> Sequence[str]:
        return getattr(getattr(self.model, "plan", None), "conditions", ())

    @cached_property
    def tabs(self) -> tuple[str, ...]:
        """The tabs of `TABS` that this model fills."""
        does, model = self.model.does, self.model
        draws = not model.needs_tokenizer(model.hparams) or model.tokenizer is not None
        generates = "generate" in does and draws and (not self.reads_text or self.reads_prompts)
        pictures = self.takes_pictures and draws and not self.writes_text
        latents = pictures and "interpolate" in does
        places = pictures and getattr(model, "grid", 1) > 0  # tokens of a sequence have no place in a picture
        shown = {
            "generate": generates,
            "inpaint": generates and places and "inpaint" in does,
            "outpaint": generates and places and "inpaint" in does,
            "edit": generates and pictures and self.reads_text and "edit" in does,
            "reconstruct": pictures and "reconstruct" in does,
            "interpolate": latents,
            "latents": latents,
            "keep": latents,
            "classify": pictures and "classify" in does,
            "twins": generates and not self.writes_text and len(installed()) > 1,
        }
        return tuple(tab for tab in TABS if shown[tab])

    def other(self) -> Model:
        """The same model in the other twin, opened at the first call."""
        twin = next(name for name in installed() if name != self.twin)
        if twin not in self.models:
            self.models[twin] = _load(twin, self.where)
        return self.models[twin]

    def encoded(self, prompt: str, negative: str = "") -> dict[str, Array]:
        """What the model reads of a prompt and of a negative one, one row an array."""
        if self.encoder is None and self.reads_prompts:
            texts: dict[str, Array] = self.model.encode_prompts(prompt, negative or None)  # type: ignore[attr-defined] # a model of texts
            return texts
        if self.encoder is None:
            raise UserError("prompt: no text encoder is open: start the demo with --text-encoder")
        texts = self.encoder([prompt])
        names = self._conditions
        if "micro" in names:
            side, published = float(self.picture_shape[0]), self.model.call_options.get("encode_prompts", {})
            score = published.get("aesthetic_score", AESTHETIC_SCORE)
            texts["micro"] = np.array([[side, side, 0.0, 0.0, score]], np.float32)
        return texts

    @cached_property
    def spread(self) -> dict[str, Array]:
        """Standard deviation of the latents `z.<l>`, (Z,) each, over a few samples of the model and all
        positions."""
        classes: dict[str, Any] = (
            {"classes": np.arange(N_FOR_SPREAD) % self.num_classes} if self.num_classes else {}
        )
        samples = self.model.generate(N_FOR_SPREAD, output="mean", **classes)
        latents = self.model.encode(samples, **classes)
        return {name: z.std(tuple(range(z.ndim - 1))) for name, z in latents.items() if name.startswith("z.")}

    @contextmanager
    def watched(self, on_batch: Callable[[int, int], object]) -> Iterator[None]:
        """Inside the block, `on_batch` is called before every batch; see `Model.on_batch`."""
        opened = [
            one for model in self.models.values() for one in (model, model.tokenizer) if one is not None
        ]
        for model in opened:
            model.on_batch = on_batch
        try:
            yield
        finally:
            for model in opened:
                model.on_batch = None

    def _open_encoder(self, name: str, layer: int) -> TextEncoder:
        pooled = "pooled" in self._conditions
        length = self.model.hparams.data.text_length
        return TextEncoder(name, length=length, layer=layer, pooled=pooled, device="cpu")


def _load(twin: str, where: str) -> Model:
    model: Model = import_module(f"dioscuri.{twin}").load(where)
    return model
