"""SUNDAE (Savinov et al. 2022) in the Python interface: tokens of pictures, grey levels, or text."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from dioscuri.data import characters
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import BATCH_SIZE
from dioscuri.face.options import sampling_names
from dioscuri.face.usual import Values
from dioscuri.families.sundae import plan as denoiser
from dioscuri.families.sundae.denoising_options import Resampling
from dioscuri.families.sundae.training import make_sampling_schedule, recorded_noise_specs
from dioscuri.families.token_models.face import TokenModel
from dioscuri.families.token_models.usual import of_tokens
from dioscuri.inputs import read_count, read_flag, read_token_mask
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import shapes


class SundaeModel(TokenModel):
    """A SUNDAE; see `TokenModel`. A text model has texts, an array of str (N,), instead of pictures."""

    sampling_options = sampling_names(Resampling)

    @property
    def plan(self) -> denoiser.DenoiserPlan:
        """Sizes derived from options, grid and codebook."""
        return denoiser.plan_of(self.hparams)

    @property
    def writes_text(self) -> bool:
        """Whether the examples are texts."""
        return not self.grid

    @property
    def length(self) -> int:
        """Tokens per example."""
        return int(self.plan.n_tokens)

    def encode(
        self, pictures: Any, *, seed: int = 0, noise: Any = None, batch_size: int = BATCH_SIZE
    ) -> Array:
        """Tokens int32 (N, h, w) of pictures, or (N, L) of texts of at most L characters."""
        if self.grid:
            return super().encode(pictures, seed=seed, noise=noise, batch_size=batch_size)
        texts = [pictures] if isinstance(pictures, str) else pictures
        texts = list(texts) if isinstance(texts, Iterable) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError("texts must be str or a list of them")
        coded = [characters.encode(text.encode("ascii", "replace")) for text in texts]
        long = next((i for i, tokens in enumerate(coded) if len(tokens) > self.length), None)
        if long is not None:
            raise UserError(
                f"text {long} has {len(coded[long])} characters, the model takes {self.length}: shorten it"
            )
        return np.stack([np.pad(tokens, (0, self.length - len(tokens))) for tokens in coded]).astype(np.int32)

    def decode(self, codes: Any, *, batch_size: int = BATCH_SIZE, **options: Any) -> Array:
        """Pictures uint8 (N, H, W, C) from tokens, or texts (N,)."""
        if self.grid:
            return super().decode(codes, batch_size=batch_size, **options)
        self._no_options("decode", options)
        return np.array([characters.decode(tokens) for tokens in self._tokens(codes)])

    def inpaint(self, pictures: Any, mask: Any, **options: Any) -> Array:
        """Pictures with the tokens under `mask` sampled again; for text, the mask is bool (L,) or (N, L), one
        value per character."""
        if self.grid:
            return super().inpaint(pictures, mask, **options)
        return self._fill(pictures, mask, **options)

    @classmethod
    def network_options(cls, hparams: Any) -> Any:
        """The options, with tokens as examples if the model has a tokenizer."""
        if not cls.needs_tokenizer(hparams):
            return hparams
        return replace(hparams, data=replace(hparams.data, dataset_source="tokens"))

    @classmethod
    def needs_tokenizer(cls, hparams: Any) -> bool:
        """Whether the model needs a tokenizer: text and grey levels do not."""
        data = hparams.data
        return bool(data.grid) and not (data.grid == data.target_res and data.channels == 1)

    @classmethod
    def parameter_shapes(cls, hparams: Any) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return shapes(denoiser.parameter_table(denoiser.plan_of(hparams)))

    @classmethod
    def initial_weights(cls, hparams: Any, seed: int) -> dict[str, Array]:
        """Initial values of every parameter."""
        return denoiser.initial_parameters(denoiser.plan_of(hparams), seed)

    @classmethod
    def usual(cls, given: Values) -> Values:
        """Default options: an hourglass that halves the grid once, if possible; with
        `grid=0`, a transformer on text."""
        tokens, model = of_tokens(given), given.get("model", {})
        if not tokens["data"]["grid"]:
            text = {**tokens["data"], "dataset_source": "text", "codebook_size": characters.CODES}
            network = {"architecture": "transformer", "dim": 512, "depth": 12, "shorten_factor": 0}
            return tokens | {"data": text, "model": {**network, **model}}
        even = int(tokens["data"]["grid"]) % 2 == 0
        depth = {"depth": (2, 10, 2), "shorten_factor": 4} if even else {"depth": 8}
        return tokens | {"model": {"dim": 512, **({} if "depth" in model else depth), **model}}

    @property
    def _makes_pictures(self) -> bool:
        return bool(self.grid) and not self.needs_tokenizer(self.hparams)

    def _scales(self, sampling: Any) -> dict[str, Array]:
        schedule = make_sampling_schedule(sampling)
        return {"temperature": schedule.temperature, "sample_proportion": schedule.proportion}

    def _recorded(self, sampling: Any, rows: int) -> tuple[NoiseSpec, ...]:
        return recorded_noise_specs(sampling, self.plan, rows)

    def _check_draws(self) -> None:
        if self.grid:
            super()._check_draws()

    def _finished(self, tokens: Array, decode: bool, batch_size: int, text: Array | None = None) -> Array:
        return super()._finished(tokens, decode, batch_size, text) if self.grid or decode else tokens

    def _fill(
        self,
        texts: Any,
        mask: Any,
        *,
        seed: int = 0,
        noise: Any = None,
        decode: bool = True,
        every_step: bool = False,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        decode, every_step = read_flag(decode, "decode"), read_flag(every_step, "every_step")
        sampling, tokens = self._sampling(options, "inpaint"), self.encode(texts)
        unknown = read_token_mask(mask, self.length, len(tokens), each="character")
        rows = {"tokens": tokens, "unknown": unknown}
        size = read_count(batch_size, "batch_size")
        given = {"sampling": sampling, "every_step": every_step}
        made = self._run("inpaint", rows, noise=noise, seed=seed, batch_size=size, **given)
        return self._drawn(made, decode, size)


FACE = SundaeModel
