"""Masked token models (Chang et al. 2022, MaskGIT) in the Python interface."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.adapter_files import Adapter, read_adapter
from dioscuri.engine import Array
from dioscuri.errors import UserError, kind_of
from dioscuri.face.model import BATCH_SIZE
from dioscuri.face.options import sampling_names
from dioscuri.face.recorded import checked_noise, drawn
from dioscuri.face.usual import Values
from dioscuri.families.maskgit import transformers
from dioscuri.families.maskgit.decoding import make_steps, recorded_noise_specs
from dioscuri.families.maskgit.diffusers_adapters import from_diffusers, to_diffusers
from dioscuri.families.maskgit.editing import first_step, read_start, share_masked
from dioscuri.families.maskgit.logic import check_guidance, check_sampler
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.text_face import ModelOfTexts
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.families.token_models.trace import Row
from dioscuri.families.token_models.usual import of_tokens
from dioscuri.inputs import read_count, read_flag, read_seed
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import shapes


class MaskGITModel(ModelOfTexts):
    """A masked token model; see `TokenModel`.

    Models of text with a text encoder (`load(..., text_encoder=)`, or one that comes with a published folder)
    take `prompts`: a text, or one for each picture. `negative_prompts` say what to avoid. With prompts, calls
    also take `clip_skip`, `size`, `crop` and `aesthetic_score`: see `encode_prompts`.
    """

    does = ("generate", "inpaint", "edit", "encode", "decode", "reconstruct")
    sampling_options = sampling_names(Sampling)
    by_step = ("top_k", "top_p", "mask_counts", "temperature", "guidance_schedule")

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

    def generate(
        self,
        n: int | None = None,
        *,
        prompts: Any = None,
        negative_prompts: Any = None,
        start: Any = None,
        **options: Any,
    ) -> Array:
        """See `TokenModel.generate`; `prompts`, and other options of a call, as the class says.

        `start` holds partial grids: tokens (N, h, w), -1 where to sample.
        """
        n = n if n is None else read_count(n, "n")
        if start is None:
            given = self._prompted("generate", n, (prompts, negative_prompts), options)
            return super().generate(n, **given)
        decode = read_flag(options.pop("decode", True), "decode")
        every_step = read_flag(options.pop("every_step", False), "every_step")
        path = self._film(options.pop("film", None))
        if decode or path:
            self._check_draws()
        size = options.get("batch_size", BATCH_SIZE)
        call = {"prompts": prompts, "negative_prompts": negative_prompts, "start": start, **options}
        is_shown = every_step or path is not None
        made, _, _, text = self._started(n, call, every_step=is_shown, decode=decode or path is not None)
        self._save_film(path, made, size, text)
        return self._drawn(made if every_step else {"tokens": made["tokens"]}, decode, size, text)

    def trace(self, n: int | None = None, **options: Any) -> list[Row]:
        """What each step of `generate(n, **options)` does: one row for each step that was taken.

        See `TokenModel.trace`; the step's options are `temperature`, `guidance_scale`, `logit_scale`, and
        `remask`, the probability with which a sampled token is masked again.
        """
        n = n if n is None else read_count(n, "n")
        made, sampling, unknown, _ = self._started(n, options, every_step=True)
        return self._table(made, sampling, unknown)

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
            options = {name: value for name, value in given.items() if name in self.sampling_options}
            first = first_step(self._sampling(options, "inpaint"), strength, given, "inpaint")
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

        Only the last steps of the sampler are taken, a share of `strength` (0 to 1), rounded down. As many
        tokens are masked as the schedule leaves at that point: with 1 all, with 0 none. Conditions,
        `decode`, `every_step` and options are as for `inpaint`.
        """
        decode, every_step = read_flag(decode, "decode"), read_flag(every_step, "every_step")
        rows = self._pictures(pictures)
        given = self._prompted("edit", len(rows), (prompts, negative_prompts), options | {"texts": texts})
        conditions = self._conditions_of_pictures(len(rows), classes, given.pop("texts"), "edit")
        text = self._decoder_text(conditions, decode)
        sampling = self._sampling(given, "edit")
        first = first_step(sampling, strength, given, "edit")
        tokens = self.encode(rows, batch_size=batch_size).reshape(len(rows), -1)
        if first is None:
            unchanged = self._finished(tokens, decode, batch_size, text)
            return unchanged[:, None] if every_step else unchanged
        # Tokens are counted as those of a whole picture, of which some are known by then.
        sampling = replace(sampling, start_step=first, legacy_mask_count=True)
        uniform, noise = self._start_noise(noise, len(rows), seed)
        unknown = uniform < share_masked(sampling, self.plan)
        call = {"sampling": sampling, "every_step": every_step, "noise": noise, "seed": seed}
        made = self._run(
            "inpaint", conditions | {"tokens": tokens, "unknown": unknown}, batch_size=batch_size, **call
        )
        return self._drawn(made, decode, batch_size, text)

    def _noise_specs(self, method: str, rows: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """Noise of all sampling steps, (N, steps, ...), and for `edit` uniform `start` (N, L), which says
        where tokens are masked first."""
        if method != "edit":
            return super()._noise_specs(method, rows, **options)
        options.pop("strength", None)
        start = NoiseSpec("start", "uniform", (rows, self.plan.picture_tokens))
        return (*super()._noise_specs("inpaint", rows, **options), start)

    def _read_adapter(self, where: Path) -> Adapter:
        if self.plan.options.architecture != "uvit":
            return super()._read_adapter(where)
        return read_adapter(where, self._network_shapes(), from_diffusers)

    def _for_diffusers(self, adapters: Mapping[str, Array], scale: float) -> dict[str, Array]:
        if self.plan.options.architecture != "uvit":
            return super()._for_diffusers(adapters, scale)
        return to_diffusers(adapters, scale)

    def _check_sampling(self, sampling: Any, call: str) -> None:
        try:
            check_guidance(sampling, self.hparams.loss, self.plan)
            check_sampler(sampling, self.plan)
        except UserError as error:
            raise UserError(f"{call}: {error}") from error

    def _scales(self, sampling: Any) -> dict[str, Array]:
        steps = make_steps(sampling, self.plan.n_tokens)
        scales = {"temperature": steps.temperature, "guidance_scale": steps.guidance - 1}
        return {**scales, "logit_scale": steps.logit_scale, "remask": steps.remask}

    def _recorded(self, sampling: Any, rows: int) -> tuple[NoiseSpec, ...]:
        critic = self.plan.options.critic != "none"
        return recorded_noise_specs(sampling, rows, self.plan.n_tokens, self.plan.codebook_size, critic)

    def _started(
        self, n: int | None, options: Mapping[str, Any], *, every_step: bool, decode: bool = False
    ) -> tuple[dict[str, Array], Sampling, Array, Array | None]:
        """What the sampler makes of the options of `generate`, its options, where tokens were unknown, and
        the decoder's texts."""
        call, method, rows = dict(options), "generate", {}
        start, prompts = call.pop("start", None), call.pop("prompts", None)
        if start is not None:
            shape = self.plan.token_shape
            rows["tokens"], rows["unknown"] = read_start(start, shape, self.codebook_size)
            if n not in (None, len(rows["tokens"])):
                raise UserError(f"generate: start holds {len(rows['tokens'])} grids for {n} pictures")
            method, n = "inpaint", len(rows["tokens"])
        call = self._prompted("generate", n, (prompts, call.pop("negative_prompts", None)), call)
        noise, seed = call.pop("noise", None), call.pop("seed", 0)
        size = call.pop("batch_size", BATCH_SIZE)
        rows |= self._conditions(n, call.pop("classes", None), call.pop("texts", None))
        text = self._decoder_text(rows, decode)
        sampling = self._sampling(call, "generate")
        passed = {"noise": noise, "seed": seed, "sampling": sampling, "every_step": every_step}
        made = self._run(method, rows, batch_size=size, **passed)
        unknown = rows.get("unknown", np.ones((len(made["tokens"]), self.plan.picture_tokens), bool))
        return made, sampling, unknown, text

    def _start_noise(self, noise: Any, rows: int, seed: int) -> tuple[Array, Any]:
        """Uniform noise (N, L) that says where `edit` masks tokens, and the noise of the steps."""
        spec = NoiseSpec("start", "uniform", (rows, self.plan.picture_tokens))
        if noise is None:
            return drawn(np.random.default_rng(read_seed(seed)), spec), None
        if not isinstance(noise, Mapping):
            raise UserError(f"noise must have the arrays of draw_noise('edit'); got {kind_of(noise)}")
        given = {name: noise[name] for name in ("start",) if name in noise}
        steps = {name: noise[name] for name in noise if name != "start"}
        return checked_noise(given, (spec,))["start"], steps


FACE = MaskGITModel
