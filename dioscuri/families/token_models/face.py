"""Token models in the Python interface: the base of MaskGIT and SUNDAE."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dioscuri.data.texts import DECODER_TEXT
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import BATCH_SIZE, Model
from dioscuri.face.options import options_of_call
from dioscuri.families.token_models.films import frames_of, read_film, save_film
from dioscuri.families.token_models.trace import Row, step_rows
from dioscuri.inputs import read_classes, read_count, read_flag, read_mask, read_token_mask, read_tokens
from dioscuri.plans.noise import NoiseSpec


class TokenModel(Model):
    """A model of picture tokens with a tokenizer, which serves `encode`, `decode` and `reconstruct`.

    Calls take the family's sampling options, `model.sampling_options`, which apply to that call only.
    """

    does: tuple[str, ...] = ("generate", "inpaint", "encode", "decode", "reconstruct")
    sampling_options: ClassVar[tuple[str, ...]] = ()
    """Names of the options that `generate` and `inpaint` take."""
    by_step: ClassVar[tuple[str, ...]] = ("top_k", "top_p")
    """Those that may be lists with one value for each step, or functions of the step, counted from 0."""

    @property
    def plan(self) -> Any:
        """Sizes derived from options, grid and codebook."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without classes."""
        return int(self.hparams.model.num_classes)

    @property
    def grid(self) -> int:
        """Side of the grid of tokens; 0 for sequences without a grid."""
        return int(self.plan.grid)

    @property
    def sequence_length(self) -> int:
        """Number of tokens of a sequence without a grid, else 0."""
        return 0 if self.grid else int(prod(self.plan.token_shape))

    @property
    def writes_text(self) -> bool:
        """Whether the examples are texts instead of pictures."""
        return False

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return int(self.plan.codebook_size)

    def encode(
        self, pictures: Any, *, seed: int = 0, noise: Any = None, batch_size: int = BATCH_SIZE
    ) -> Array:
        """The tokenizer's tokens int32 (N, h, w), or (N, L) without a grid, of pictures."""
        if self._makes_pictures:
            rows = {"image": self._pictures(pictures)}
            tokens = self._run("encode", rows, noise=noise, seed=seed, batch_size=batch_size)["tokens"]
            return tokens.reshape(-1, *self.plan.token_shape)
        tokens = self._codec().encode(pictures, seed=seed, noise=noise, batch_size=batch_size)
        return np.asarray(tokens)

    def decode(self, codes: Any, *, text: Any = None, batch_size: int = BATCH_SIZE, **options: Any) -> Array:
        """The tokenizer's pictures uint8 (N, H, W, C) of tokens (N, h, w), (N, h * w) or (N, L); `text` is
        for a tokenizer that reads it."""
        self._no_options("decode", options)
        if self._makes_pictures:
            rows = {"tokens": self._tokens(codes)}
            return self._run("decode", rows, noise=None, seed=0, batch_size=batch_size)["image"]
        drawn: Array = self._codec().decode(self._tokens(codes), batch_size=batch_size, **_given(text))
        return drawn

    def reconstruct(
        self, pictures: Any, *, text: Any = None, batch_size: int = BATCH_SIZE, **options: Any
    ) -> Array:
        """Pictures uint8 (N, H, W, C) encoded and decoded: the best quality the model can reach."""
        self._no_options("reconstruct", options)
        tokens = self.encode(pictures, batch_size=batch_size)
        return self.decode(tokens, batch_size=batch_size, **_given(text))

    def generate(
        self,
        n: int | None = None,
        *,
        classes: Any = None,
        texts: Any = None,
        seed: int = 0,
        noise: Any = None,
        decode: bool = True,
        every_step: bool = False,
        film: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """New pictures uint8 (N, H, W, C), or with `decode=False` their tokens int32 (N, h, w) or (N, L).

        By default n is the number of classes or texts, or 16. `classes` holds one class per picture, or one
        for all; by default pictures cycle through all classes. `texts` are encoded texts by name (`text`,
        `text_mask`, `pooled`, `micro`), or a folder that `data_scripts/encode_text.py` wrote. With
        `every_step` the second axis has the sampling steps: what the model predicts of the whole picture in
        each step, the finished picture last. `film` names a file .gif, .png or .webp to write, in which the
        steps follow each other.
        """
        decode, every_step = read_flag(decode, "decode"), read_flag(every_step, "every_step")
        sampling, path = self._sampling(options, "generate"), self._film(film)
        if decode or path:
            self._check_draws()
        rows = self._conditions(n, classes, texts)
        given = {"sampling": sampling, "every_step": every_step or path is not None}
        text = self._decoder_text(rows, decode or path is not None)
        made = self._run("generate", rows, noise=noise, seed=seed, batch_size=batch_size, **given)
        self._save_film(path, made, batch_size, text)
        return self._drawn(made if every_step else {"tokens": made["tokens"]}, decode, batch_size, text)

    def trace(
        self,
        n: int | None = None,
        *,
        classes: Any = None,
        texts: Any = None,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> list[Row]:
        """What each step of `generate(n, ...)` does: one row for each step that was taken, from the first.

        `step`; numbers of tokens, as means over the pictures: `masked_before` and `masked_after` the step
        (without masks: tokens that are not final yet), `written`, and `changed`, predicted otherwise than in
        the step before; `running`, the share of the pictures that took the step; and its options, such as
        `temperature`.
        """
        rows, sampling = self._conditions(n, classes, texts), self._sampling(options, "generate")
        given = {"sampling": sampling, "every_step": True}
        rows.pop(DECODER_TEXT, None)
        made = self._run("generate", rows, noise=noise, seed=seed, batch_size=batch_size, **given)
        return self._table(made, sampling, np.ones(made["tokens"].shape, bool))

    def inpaint(
        self,
        pictures: Any,
        mask: Any,
        *,
        classes: Any = None,
        texts: Any = None,
        seed: int = 0,
        noise: Any = None,
        decode: bool = True,
        every_step: bool = False,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures with the tokens under `mask` sampled again and all others unchanged.

        The mask is in pixels: bool (H, W) for all pictures or (N, H, W), or a PIL image that is white where
        to sample. Tokens without a grid have no place in a picture: for them it is bool (L,) or (N, L), one
        value per token. `classes`, `texts` and `every_step` are as for `generate`; a model with classes needs
        `classes`.
        """
        decode, every_step = read_flag(decode, "decode"), read_flag(every_step, "every_step")
        sampling = self._sampling(options, "inpaint")
        tokens = self.encode(pictures, batch_size=batch_size)
        n = len(tokens)
        rows = self._conditions_of_pictures(n, classes, texts, "inpaint")
        text = self._decoder_text(rows, decode)
        rows |= {"tokens": tokens.reshape(n, -1), "unknown": self._unknown(mask, n)}
        given = {"sampling": sampling, "every_step": every_step}
        made = self._run("inpaint", rows, noise=noise, seed=seed, batch_size=batch_size, **given)
        return self._drawn(made, decode, batch_size, text)

    def _noise_specs(self, method: str, rows: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """Noise of all sampling steps, (N, steps, ...); `options` are those of the call."""
        if method not in ("generate", "inpaint"):
            return super()._noise_specs(method, rows, **options)
        sampling = options.pop("sampling", None) or self._sampling(options, method)
        return self._recorded(sampling, rows)

    @classmethod
    def needs_tokenizer(cls, hparams: Any) -> bool:
        """Whether pictures need a separate tokenizer."""
        del hparams
        return True

    def _scales(self, sampling: Any) -> dict[str, Array]:
        """Options of all steps, each (T,), by name."""
        raise NotImplementedError

    def _table(self, made: Mapping[str, Array], sampling: Any, unknown: Array) -> list[Row]:
        """What `trace` returns of a sampler's result for tokens that were `unknown` (N, L)."""
        scales = self._scales(sampling)
        return [
            row | {name: float(scale[int(row["step"])]) for name, scale in scales.items()}
            for row in step_rows(made, unknown, getattr(sampling, "start_step", 0))
        ]

    def _film(self, film: Any) -> Path | None:
        """The file of a film, if one is asked for."""
        if film is not None and self.writes_text:
            raise UserError("generate: film needs pictures, but this model writes text: leave it out")
        return None if film is None else read_film(film)

    def _save_film(
        self, path: Path | None, made: Mapping[str, Array], batch_size: int, text: Array | None
    ) -> None:
        if path is not None:
            shape = self.plan.token_shape
            save_film(path, frames_of(made, shape, lambda ids: self._finished(ids, True, batch_size, text)))

    def _recorded(self, sampling: Any, rows: int) -> tuple[NoiseSpec, ...]:
        """Noise of all steps of a sampler."""
        raise NotImplementedError

    def _check_sampling(self, sampling: Any, call: str) -> None:
        """Raise a `UserError` if the options of a call do not fit the model."""

    @property
    def _makes_pictures(self) -> bool:
        """Whether tokens are grey levels, which the network itself decodes."""
        return False

    @property
    def _condition_names(self) -> Sequence[str]:
        return tuple(self.plan.conditions)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("image", "tokens", *self._condition_names, *self._masks)

    @property
    def _conditions_of_batch(self) -> tuple[str, ...]:
        return tuple(self._condition_names)

    @property
    def _masks(self) -> tuple[str, ...]:
        return ("text_mask",) if "text" in self._condition_names else ()

    def _checked(self, name: str, value: Any, *, padded: bool) -> Array:
        del padded
        if name == "tokens":
            return self._tokens(value)
        if name == "label":
            return read_classes(value, self.num_classes, where=name)
        if name == "image":
            self._check_draws()
            return self._pictures(value)
        return self._text_rows({name: value})[name]

    def _sampling(self, options: Mapping[str, Any], call: str) -> Any:
        """The run's sampling options, updated with the model's for this method and those of a call; functions
        of the step become lists."""
        usual = self.call_options.get(call, {})
        n = options.get("steps", usual.get("steps", self.hparams.synthesis.steps))
        listed = {
            name: [value(step) for step in range(read_count(n, "steps"))]
            for name, value in options.items()
            if name in self.by_step and callable(value)
        }
        given = {**options, **listed}
        chosen = options_of_call(self.hparams, given, self.sampling_options, call, usual)
        self._check_sampling(chosen, call)
        return chosen

    def _conditions(self, n: int | None, classes: Any, texts: Any) -> dict[str, Array]:
        """Conditions, one row per picture."""
        count = None if n is None else read_count(n, "n")
        rows: dict[str, Array] = {}
        if classes is not None:
            rows["label"] = read_classes(classes, self.num_classes, n=count)
            count = len(rows["label"])
        if texts is not None or "text" in self._condition_names:
            rows |= self._texts(texts, count)
            count = len(rows["text"])
        count = 16 if count is None else count
        if self.num_classes and classes is None:
            rows["label"] = (np.arange(count) % self.num_classes).astype(np.int32)
        return rows or {"index": np.arange(count)}

    def _conditions_of_pictures(self, n: int, classes: Any, texts: Any, call: str) -> dict[str, Array]:
        """Conditions of n pictures that are given, whose classes cannot be guessed."""
        if self.num_classes and classes is None:
            raise UserError(f"{call} needs classes: give one for each picture, or one for all")
        return self._conditions(n, classes, texts)

    def _texts(self, texts: Any, n: int | None) -> dict[str, Array]:
        del texts, n
        raise UserError(f"texts: this model of family '{self.family}' reads no text: leave it out")

    def _text_rows(self, given: Mapping[str, Any]) -> dict[str, Array]:
        raise UserError(f"this model of family '{self.family}' reads no text: leave out {', '.join(given)}")

    @property
    def _decoder_reads_text(self) -> bool:
        """Whether the tokenizer decodes tokens together with a text."""
        return getattr(self._tokenizer, "reads_text", False)

    def _decoder_text(self, rows: dict[str, Array], decode: bool) -> Array | None:
        """The conditions' texts for the tokenizer's decoder, taken out of `rows`; a `UserError` if it lacks
        them."""
        text = rows.pop(DECODER_TEXT, None)
        if decode and text is None and self._decoder_reads_text:
            raise UserError(
                "the tokenizer decodes tokens together with a text: give prompts=, texts= with "
                f"'{DECODER_TEXT}', or ask for tokens with decode=False"
            )
        return text

    def _drawn(
        self, made: Mapping[str, Array], decode: bool, batch_size: int, text: Array | None = None
    ) -> Array:
        """What `generate` or `inpaint` returns: the last tokens, or with `steps` those of every step."""
        if "steps" not in made:
            return self._finished(made["tokens"], decode, batch_size, text)
        steps = np.concatenate([made["steps"][:, :-1], made["tokens"][:, None]], 1)
        N, T, L = steps.shape
        text = None if text is None else text.repeat(T, 0)
        finished = self._finished(steps.reshape(N * T, L), decode, batch_size, text)
        return finished.reshape(N, T, *finished.shape[1:])

    def _finished(self, tokens: Array, decode: bool, batch_size: int, text: Array | None = None) -> Array:
        if not decode:
            return tokens.reshape(-1, *self.plan.token_shape)
        return self.decode(tokens, batch_size=batch_size, **_given(text))

    def _tokens(self, given: Any) -> Array:
        return read_tokens(given, self.plan.token_shape, self.codebook_size)

    def _unknown(self, mask: Any, n: int) -> Array:
        """Tokens to sample (N, L)."""
        if not self.grid:
            return read_token_mask(mask, self.sequence_length, n, each="token")
        H, W = self.picture_shape[:2]
        return read_mask(mask, (H, W), (self.grid, self.grid), n)

    def _check_draws(self) -> None:
        if not self._makes_pictures:
            self._codec()

    def _codec(self) -> Any:
        if self.tokenizer is None:
            raise UserError(
                "this model has no tokenizer to make pictures of its tokens: give load tokenizer=, a model "
                "or a folder, or ask for tokens with decode=False"
            )
        return self.tokenizer


def _given(text: Any) -> dict[str, Any]:
    """Arguments of a decoder that may read a text."""
    return {} if text is None else {"text": text}
