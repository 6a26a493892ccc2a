"""Masked token models (Chang et al. 2022, MaskGIT) in the Python interface."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.data.text_encoder import TextSource
from dioscuri.data.texts import open_texts
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import BATCH_SIZE
from dioscuri.face.options import sampling_names
from dioscuri.face.recorded import checked_noise, drawn
from dioscuri.face.usual import Values
from dioscuri.families.maskgit import transformers
from dioscuri.families.maskgit.decoding import recorded_noise_specs
from dioscuri.families.maskgit.editing import first_step, share_masked
from dioscuri.families.maskgit.logic import check_guidance, check_sampler
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.prompts import (
    NULL,
    READING,
    PromptReader,
    encode_prompts,
    read_prompts,
    reading_of,
)
from dioscuri.families.token_models.face import TokenModel, of_tokens
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.families.token_models.texts import N_MICRO
from dioscuri.inputs import check_lengths, check_names, read_count, read_flag, read_seed, to_array
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import shapes


class MaskGITModel(TokenModel):
    """A masked token model; see `TokenModel`.

    Models of text with a text encoder (`load(..., text_encoder=)`, or one that comes with a published folder)
    take `prompts`: a text, or one for each picture. `negative_prompts` say what to avoid. With prompts, calls
    also take `clip_skip`, `size`, `crop` and `aesthetic_score`: see `encode_prompts`.
    """

    does = ("generate", "inpaint", "edit", "encode", "decode", "reconstruct")
    sampling_options = sampling_names(Sampling)
    _reader: PromptReader | None = None

    @property
    def plan(self) -> TransformerPlan:
        """Sizes derived from options, grid and codebook."""
        return transformers.plan_of(self.hparams)

    @property
    def codebook_size(self) -> int:
        """Number of codes of the tokenizer."""
        return self.plan.picture_codes

    @classmethod
    def parameter_shapes(cls, hparams: Any) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return shapes(transformers.parameter_table(transformers.plan_of(hparams)))

    @classmethod
    def initial_weights(cls, hparams: Any, seed: int) -> dict[str, Array]:
        """Initial values of every parameter."""
        return transformers.initial_parameters(transformers.plan_of(hparams), seed)

    @classmethod
    def usual(cls, given: Values) -> Values:
        """Default options: tokens and condition dropout of MaskGIT (Chang et al. 2022)."""
        return of_tokens(given) | {"loss": {"cond_dropout_prob": 0.1, **given.get("loss", {})}}

    def read_with(self, source: TextSource) -> None:
        """Use this text encoder for prompts; a `UserError` if the model reads no text."""
        if "text" not in self._condition_names:
            super().read_with(source)
        self._reader = PromptReader(source, self.hparams, self._condition_names)

    def encode_prompts(
        self, prompts: Any, negative_prompts: Any = None, *, n: int | None = None, **reading: Any
    ) -> dict[str, Array]:
        """Encoded prompts, the arrays by name that `texts=` takes in either twin.

        `text` (N, S, E) holds the text encoder's states, `pooled` (N, P) its pooled state, `null.<name>`
        those of the negative prompts, `micro` (N, 5) the micro-conditions. Options: `clip_skip`, how many of
        the encoder's last layers are skipped; `size` (width, height) of the pictures before they were
        cropped, by default that of the model's pictures; `crop` (top, left), default (0, 0);
        `aesthetic_score`, default 6. A prompt that is too long is cut, with a warning. The text encoder is
        run by PyTorch, for JAX on the CPU.
        """
        if self._reader is None:
            raise UserError(
                "this model has no text encoder to read prompts: give load text_encoder=, a folder or hub "
                "id, or texts= that were encoded before"
            )
        check_names(reading, READING, "encode_prompts: option")
        options = reading_of(reading, "encode_prompts")
        texts = read_prompts(prompts, n=n)
        count, negative = len(texts), negative_prompts
        if negative is not None:
            negative = read_prompts(negative, "negative_prompts", n=count, empty=True)
        device = self.device if self.twin == "torch" else "cpu"
        rows = encode_prompts(self._reader, (texts, negative), options.clip_skip, device)
        if "micro" in self._condition_names:
            H, W = self.picture_shape[:2]
            rows["micro"] = np.tile(options.micro((W, H)), (count, 1))
        return rows

    def generate(
        self, n: int | None = None, *, prompts: Any = None, negative_prompts: Any = None, **options: Any
    ) -> Array:
        """See `TokenModel.generate`; `prompts`, and other options of a call, as the class says."""
        n = n if n is None else read_count(n, "n")
        given = self._prompted("generate", n, (prompts, negative_prompts), options)
        return super().generate(n, **given)

    def inpaint(
        self,
        pictures: Any,
        mask: Any,
        *,
        strength: float | None = None,
        prompts: Any = None,
        negative_prompts: Any = None,
        **options: Any,
    ) -> Array:
        """See `TokenModel.inpaint`; `prompts`, and other options of a call, as the class says.

        With `strength` from 0 to 1, only the last steps of the sampler are taken, as for `edit`.
        """
        rows = self._pictures(pictures)
        given = self._prompted("inpaint", len(rows), (prompts, negative_prompts), options)
        if strength is not None:
            steps = {name: given[name] for name in ("steps",) if name in given}
            first = first_step(self._sampling(steps, "inpaint"), strength, given, "inpaint")
            if first is None:
                raise UserError(f"inpaint: strength {strength} leaves no step: give more steps or strength")
            given["start_step"] = first
        return super().inpaint(rows, mask, **given)

    def edit(
        self,
        pictures: Any,
        *,
        strength: float = 0.5,
        prompts: Any = None,
        negative_prompts: Any = None,
        classes: Any = None,
        texts: Any = None,
        seed: int = 0,
        noise: Any = None,
        decode: bool = True,
        every_step: bool = False,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures with some of their tokens, at random places, sampled again (aMUSEd, Patil et al. 2024).

        Of the sampler's steps, the last `strength` (0 to 1), rounded down, are taken, and as many tokens are
        masked as the schedule leaves at that point: with 1 all are, with 0 none. Conditions, `decode`,
        `every_step` and options are as for `inpaint`.
        """
        decode, every_step = read_flag(decode, "decode"), read_flag(every_step, "every_step")
        rows = self._pictures(pictures)
        given = self._prompted("edit", len(rows), (prompts, negative_prompts), options | {"texts": texts})
        conditions = self._conditions_of_pictures(len(rows), classes, given.pop("texts"), "edit")
        sampling = self._sampling(given, "edit")
        first = first_step(sampling, strength, given, "edit")
        tokens = self.encode(rows, batch_size=batch_size).reshape(len(rows), -1)
        if first is None:
            unchanged = self._finished(tokens, decode, batch_size)
            return unchanged[:, None] if every_step else unchanged
        # Tokens are counted as those of a whole picture, of which some are known by then.
        sampling = replace(sampling, start_step=first, legacy_mask_count=True)
        uniform, noise = self._start_noise(noise, len(rows), seed)
        unknown = uniform < share_masked(sampling, self.plan.picture_tokens)
        call = {"sampling": sampling, "every_step": every_step, "noise": noise, "seed": seed}
        made = self._run(
            "inpaint", conditions | {"tokens": tokens, "unknown": unknown}, batch_size=batch_size, **call
        )
        return self._drawn(made, decode, batch_size)

    def noise_specs(self, method: str, rows: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """Noise of all sampling steps, (N, steps, ...), and for `edit` uniform `start` (N, L), which says
        where tokens are masked first."""
        if method != "edit":
            return super().noise_specs(method, rows, **options)
        options.pop("strength", None)
        start = NoiseSpec("start", "uniform", (rows, self.plan.picture_tokens))
        return (*super().noise_specs("inpaint", rows, **options), start)

    def _check_sampling(self, sampling: Any, call: str) -> None:
        try:
            check_guidance(sampling, self.hparams.loss, self.plan)
            check_sampler(sampling, self.plan)
        except UserError as error:
            raise UserError(f"{call}: {error}") from error

    def _recorded(self, sampling: Any, rows: int) -> tuple[NoiseSpec, ...]:
        critic = self.plan.options.critic != "none"
        return recorded_noise_specs(sampling, rows, self.plan.n_tokens, self.plan.codebook_size, critic)

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

    def _start_noise(self, noise: Any, rows: int, seed: int) -> tuple[Array, Any]:
        """Uniform noise (N, L) that says where `edit` masks tokens, and the noise of the steps."""
        spec = NoiseSpec("start", "uniform", (rows, self.plan.picture_tokens))
        if noise is None:
            return drawn(np.random.default_rng(read_seed(seed)), spec), None
        if not isinstance(noise, Mapping):
            raise UserError(f"noise must have the arrays of draw_noise('edit'); got {type(noise).__name__}")
        given = {name: noise[name] for name in ("start",) if name in noise}
        steps = {name: noise[name] for name in noise if name != "start"}
        return checked_noise(given, (spec,))["start"], steps

    def _texts(self, texts: Any, n: int | None) -> dict[str, Array]:
        if "text" not in self._condition_names:
            return super()._texts(texts, n)
        if isinstance(texts, str | Path):
            opened = open_texts(Path(texts))
            count = min(len(opened), 16) if n is None else n
            texts = opened.gather(np.arange(count) % len(opened))
        if not isinstance(texts, Mapping):
            raise UserError(
                "texts must be encoded: arrays by name, or the folder that data_scripts/encode_text.py "
                f"wrote; got {'none' if texts is None else type(texts).__name__}; prompts= takes plain texts"
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
        check_names(given, known, "texts:")
        rows = {}
        for full, value in given.items():
            array = to_array(value, f"texts: '{full}' must be an array")
            name = full.removeprefix(NULL)
            rank, width = (3, widths[name]) if name == "text" else (2, widths.get(name, array.shape[1:]))
            if array.ndim != rank or array.shape[-1:] != width[-1:]:
                axes = f"(N, T, {width[0]})" if name == "text" else f"(N, {width[-1]})"
                raise UserError(f"texts: '{full}' must be {axes}; got {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise UserError(f"texts: '{full}' holds values that are not finite")
            rows[full] = array.astype(bool if name == "text_mask" else np.float32)
        for name in rows:
            if name.startswith(NULL) and rows[name].shape[1:] != rows[name.removeprefix(NULL)].shape[1:]:
                raise UserError(f"texts: '{name}' must have the shape of '{name.removeprefix(NULL)}'")
        return rows


FACE = MaskGITModel
