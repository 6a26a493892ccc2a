"""Masked token models (Chang et al. 2022, MaskGIT) in the Python interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.data.texts import open_texts
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.options import sampling_names
from dioscuri.face.usual import Values
from dioscuri.families.maskgit import transformers
from dioscuri.families.maskgit.decoding import recorded_noise_specs
from dioscuri.families.maskgit.logic import check_guidance
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.token_models.face import TokenModel, of_tokens
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.families.token_models.texts import N_MICRO
from dioscuri.inputs import check_lengths, check_names, to_array
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import shapes


class MaskGITModel(TokenModel):
    """A masked token model; see `TokenModel`."""

    sampling_options = sampling_names(Sampling)

    @property
    def plan(self) -> TransformerPlan:
        """Sizes derived from options, grid and codebook."""
        return transformers.plan_of(self.hparams)

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

    def _check_sampling(self, sampling: Any, call: str) -> None:
        try:
            check_guidance(sampling, self.hparams.loss, self.plan)
        except UserError as error:
            raise UserError(f"{call}: {error}") from error

    def _recorded(self, sampling: Any, rows: int) -> tuple[NoiseSpec, ...]:
        critic = self.plan.options.critic != "none"
        return recorded_noise_specs(sampling, rows, self.plan.n_tokens, self.plan.codebook_size, critic)

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
                f"wrote; got {'none' if texts is None else type(texts).__name__}"
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
        known = [name for name in ("text", "text_mask", "pooled", "micro") if name in self._names]
        check_names(given, known, "texts:")
        rows = {}
        for name, value in given.items():
            array = to_array(value, f"texts: '{name}' must be an array")
            rank, width = (3, widths[name]) if name == "text" else (2, widths.get(name, array.shape[1:]))
            if array.ndim != rank or array.shape[-1:] != width[-1:]:
                axes = f"(N, T, {width[0]})" if name == "text" else f"(N, {width[-1]})"
                raise UserError(f"texts: '{name}' must be {axes}; got {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise UserError(f"texts: '{name}' holds values that are not finite")
            rows[name] = array.astype(bool if name == "text_mask" else np.float32)
        return rows


FACE = MaskGITModel
