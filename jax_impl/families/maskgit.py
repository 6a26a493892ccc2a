"""Masked token models for the engine: their loss, and their modes as functions of arrays.

Modes take the model, arrays with the batch first and noise, and return such arrays. Tokens are integers (B,
L), row by row; pictures are uint8 NHWC. A batch's arrays `label`, `text`, `text_mask`, `pooled` and `micro`
are conditions, as far as the model has them.
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import Array
from jax.lax import stop_gradient

from dioscuri.families.maskgit import training, transformers
from dioscuri.families.maskgit.decoding import rolls, step_noise_specs
from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.training import embedding_shape
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.families.token_models.texts import empty_text
from dioscuri.plans.noise import NoiseSpec
from jax_impl.families.frozen_tokenizer import FrozenTokenizer
from jax_impl.families.methods import Result, Scalars
from jax_impl.families.token_models import TokenModelMethods
from jax_impl.layers.bits import combine_groups, split_tokens
from jax_impl.layers.named import under
from jax_impl.models.critic import critic_logits
from jax_impl.models.transformers import build_transformer
from jax_impl.objectives.masked_tokens import (
    Terms,
    critic_inputs,
    critic_loss,
    cross_entropy,
    soft_targets,
    statistics,
    token_terms,
    training_loss,
)
from jax_impl.objectives.masking import IGNORED, Masked, drop_condition, mask_tokens
from jax_impl.samplers.decoder import Predictor
from jax_impl.samplers.noise import random_offsets, recorded_noise, step_noise, whole_numbers_below
from jax_impl.samplers.tokens import sample_tokens
from jax_impl.trainer import Trainer, TrainState

Arrays = Mapping[str, Array]


class MaskGITMethods(TokenModelMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    def __init__(self, hparams: HParams) -> None:
        data = hparams.data
        self.hparams = hparams
        self.plan = transformers.plan_of(hparams)
        self.table = transformers.parameter_table(self.plan)
        self.weight_decay = hparams.loss.weight_decay
        self.metric_sizes = training.metric_sizes()
        self.tokenizer = FrozenTokenizer(Path(data.tokenizer_path)) if data.tokenizer_path else None

    def initial_parameters(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values under canonical names."""
        return transformers.initial_parameters(self.plan, seed)

    def frozen(self) -> dict[str, np.ndarray]:
        """Weights of the tokenizer, and the encoded empty text."""
        weights = {} if self.tokenizer is None else self.tokenizer.frozen()
        return weights | {f"null.{name}": array for name, array in empty_text(self.hparams).items()}

    def build(self) -> nnx.Module:
        """The model; its parameters need not be initialised."""
        train = self.hparams.train
        return build_transformer(self.plan, checkpoint=train.checkpoint_activations, scan=train.scan_blocks)

    def _training_noise(self, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a training step for a batch of this size."""
        return training.training_noise(self.hparams, self.plan, batch, self.hparams.data.text_length)

    def loss(
        self, model: Any, batch: Arrays, noise: Arrays, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """The loss of this batch's masked tokens, and of the critic."""
        return *training_loss(self._terms(model, batch, noise, frozen), self.hparams.loss), {}

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Arrays,
        noise: Arrays,
        scalars: Scalars,
        frozen: Arrays,
    ) -> tuple[TrainState, Result, Array]:
        """The plain step; a loss normalised by tokens divides by the mean over the global batch."""
        by_tokens, weight = self.hparams.loss.normalisation == "tokens", None
        if by_tokens and trainer.accumulation_steps > 1:
            # In a separate pass: the loss of every micro-batch needs the mean over all.
            def mean_weight(model: Any, batch: Arrays, noise: Arrays) -> Result:
                return {"weight": statistics(self._terms(model, batch, noise, frozen))}

            weight = trainer.mean(mean_weight, state, batch, noise)["weight"]

        def objective(model: Any, batch: Arrays, noise: Arrays) -> tuple[Array, Result, Result]:
            terms, mean = self._terms(model, batch, noise, frozen), weight
            if by_tokens and mean is None:
                mean = trainer.over_processes(statistics(terms))
            return *training_loss(terms, self.hparams.loss, mean), {}

        gradient, metrics, _ = trainer.gradient(objective, state, batch, noise)
        state, norm = trainer.update(state, gradient, scalars)
        return state, metrics, norm

    def evaluate(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`cross_entropy` in nats per masked token and `accuracy`, both (B,), of the
        tokens under `mask` (B, L)."""
        tokens, mask = self._ids(batch, frozen), batch["mask"].astype(bool)
        inputs = jnp.where(mask, self.plan.mask_id, tokens)
        condition = self._condition(batch) | self._time(mask.astype(self.dtype).mean(1))
        if self.plan.options.self_cond:
            condition["self"] = model(inputs, condition)[1]["embed"]
        logits, _ = model(inputs, condition)
        losses = cross_entropy(logits, jnp.where(mask, tokens, IGNORED))
        n = mask.sum(1).astype(losses.dtype)
        right = mask & (logits.argmax(-1) == tokens)
        return {"cross_entropy": losses.sum(1) / n, "accuracy": right.sum(1) / n}

    def generate(
        self,
        model: Any,
        batch: Arrays,
        noise: Mapping[str, Any],
        frozen: Arrays,
        every_step: bool = False,
        sampling: Sampling | None = None,
        schedule: Sequence[Array] | None = None,
    ) -> dict[str, Array]:
        """`tokens` (B, L) and, with a tokenizer, `image` (B, H, W, C), for the conditions of the batch;
        without any, `index` (B,) gives the batch size.

        `taken` (B,) is the number of steps that the batch needed. `every_step` adds each step's prediction of
        all tokens, `steps` (B, T, L), and which of them are masked again, `masked` (B, T, L). `sampling`
        replaces the options of `[synthesis]`, and `schedule` what `make_numbers` gives for these.
        """
        example = next(value for name, value in batch.items() if name in ("index", *self.plan.conditions))
        B = len(example)
        start = jnp.full((B, self.plan.n_tokens), self.plan.mask_id, jnp.int32)
        drawing = (sampling or self.hparams.synthesis, schedule, every_step)
        return self._sampled(model, start, batch, noise, frozen, drawing)

    def inpaint(
        self,
        model: Any,
        batch: Arrays,
        noise: Mapping[str, Any],
        frozen: Arrays,
        every_step: bool = False,
        sampling: Sampling | None = None,
        schedule: Sequence[Array] | None = None,
    ) -> dict[str, Array]:
        """The same as `generate`, for pictures or tokens that are known except at `unknown` (B, L)."""
        unknown = repeat(batch["unknown"].astype(bool), "b l -> b (l m)", m=self.plan.splits)
        start = jnp.where(unknown, self.plan.mask_id, self._ids(batch, frozen))
        drawing = (sampling or self.hparams.synthesis, schedule, every_step)
        return self._sampled(model, start, batch, noise, frozen, drawing)

    def _terms(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> Terms:
        """Terms of the loss: mask tokens, predict them, and score the predictions with the critic."""
        plan, loss = self.plan, self.hparams.loss
        tokens, targets = self._targets(batch, frozen)
        masked = mask_tokens(tokens, noise, loss, plan.codebook_size, plan.mask_id)
        condition = self._condition(batch) | self._time(masked.ratio)
        if "drop" in noise:
            null = self._null(frozen, condition)
            condition = drop_condition(condition, null, noise["drop"], loss.cond_dropout_prob)
        if plan.options.self_cond:
            condition["self"] = self._first_pass(model, masked, condition, noise["self_cond"])
        logits, _ = model(masked.inputs, condition, noise)
        critic = None
        if plan.options.critic != "none":
            critic = self._critic_loss(model, logits, masked, tokens, condition, noise)
        terms = token_terms(logits, masked, loss, targets, critic)
        return terms._replace(loss=plan.splits * terms.loss) if loss.sum_splits else terms

    def _sampled(
        self,
        model: Any,
        start: Array,
        batch: Arrays,
        noise: Mapping[str, Any],
        frozen: Arrays,
        drawing: tuple[Sampling, Sequence[Array] | None, bool],
    ) -> dict[str, Array]:
        plan, (options, numbers, every_step), B = self.plan, drawing, len(start)
        condition, has_critic = self._condition(batch), plan.options.critic != "none"
        specs = step_noise_specs(options, B, plan.n_tokens, plan.codebook_size, has_critic)
        if "sampling" in noise:
            draw = step_noise(noise["sampling"], specs, self.dtype)
            offsets = random_offsets(noise["sampling"], B, plan.n_tokens) if rolls(options) else None
        else:
            draw = recorded_noise(noise, specs)
            offsets = whole_numbers_below(noise["offsets"], plan.n_tokens) if rolls(options) else None
        predictor = Predictor(
            model,
            plan.codebook_size,
            plan.mask_id,
            condition,
            null=self._null(frozen, condition, batch) or None,
            critic=partial(critic_logits, model) if has_critic else None,
            prepare=model.prepare,
            shape=plan.token_shape,
            timestep_factor=plan.options.timestep_factor if plan.takes_timestep else None,
        )
        sampled = sample_tokens(
            predictor,
            start,
            draw,
            options,
            embedding=jnp.zeros(embedding_shape(plan, B), self.dtype) if plan.options.self_cond else None,
            offsets=offsets,
            every_step=every_step,
            numbers=numbers,
        )
        taken = {"taken": jnp.full(B, sampled.taken, jnp.int32)}
        if not every_step:
            return taken | self._results(sampled.tokens, batch, frozen)
        masked = sampled.inputs[1:] == plan.mask_id
        masked = jnp.concatenate([masked, jnp.zeros_like(masked[:1])])
        return taken | self._results(sampled.tokens, batch, frozen, sampled.drawn, masked)

    def _ids(self, batch: Arrays, frozen: Arrays) -> Array:
        """The network's codes (B, L) of the batch's tokens, or of its pictures' tokens."""
        tokens, plan = self._tokens(batch, frozen), self.plan
        return tokens if plan.splits == 1 else split_tokens(tokens, plan.splits, plan.group_bits)

    def _results(
        self,
        tokens: Array,
        batch: Arrays,
        frozen: Arrays,
        steps: Array | None = None,
        masked: Array | None = None,
    ) -> dict[str, Array]:
        """See `TokenModelMethods`. Groups become tokens, which are masked if one of their groups is."""
        splits, bits = self.plan.splits, self.plan.group_bits
        if splits > 1:
            tokens = combine_groups(tokens, splits, bits)
            steps = None if steps is None else combine_groups(steps, splits, bits)
            masked = None if masked is None else reduce(masked, "t b (l m) -> t b l", "any", m=splits)
        return super()._results(tokens, batch, frozen, steps, masked)

    def _targets(self, batch: Arrays, frozen: Arrays) -> tuple[Array, Array | None]:
        """Tokens (B, L) and, if the loss uses them, soft targets (B, L, K)."""
        loss = self.hparams.loss
        if not loss.use_soft_code_target:
            return self._ids(batch, frozen), None
        distances = self._codec().distances(batch["image"], frozen)
        distances = rearrange(distances, "b ... k -> b (...) k")
        return distances.argmin(-1), soft_targets(distances, loss.soft_code_temp)

    def _condition(self, batch: Arrays) -> dict[str, Array]:
        """The conditions in a batch, with `text_keep` (B,) if there is text."""
        names = (*self.plan.conditions, *(() if self.hparams.data.attend_padding else ("text_mask",)))
        condition = {name: batch[name] for name in names if name in batch}
        if "text" in condition:
            condition["text_keep"] = jnp.ones_like(condition["text"][:, 0, 0])
        return condition

    def _time(self, share: Array) -> dict[str, Array]:
        """The time (B,) that a network is told that depends on it, from the share (B,) of masked tokens."""
        plan = self.plan
        return {"timestep": plan.options.timestep_factor * share} if plan.takes_timestep else {}

    def _null(self, frozen: Arrays, condition: Arrays, batch: Arrays | None = None) -> dict[str, Array]:
        """The null condition: the null label, and the batch's `null.<name>` (negative prompts), or else the
        encoded empty text or, without it, no text and a pooled state of zeros."""
        null_text = under(frozen, "null") | under(batch, "null")
        values = {"label": self.plan.null_label, "text_keep": 0, "pooled": 0}
        if "text" in null_text:
            del values["text_keep"]
        null = {
            name: jnp.full_like(condition[name][:1], value)
            for name, value in values.items()
            if name in condition
        }
        return null | {
            name: null_text[name].astype(condition[name].dtype) for name in null_text if name in condition
        }

    def _first_pass(self, model: Any, masked: Masked, condition: Arrays, uniform: Array) -> Array:
        """The embedding of a first pass without gradient; zero for pictures that get no such pass."""
        embed = stop_gradient(model(masked.inputs, condition)[1]["embed"])
        chosen = rearrange(uniform < self.hparams.loss.self_cond_prob, "b -> b 1 1")
        return jnp.where(chosen, embed, 0)

    def _critic_loss(
        self,
        model: Any,
        logits: Array,
        masked: Masked,
        tokens: Array,
        condition: Arrays,
        noise: Arrays,
    ) -> Array:
        gumbel = -jnp.log(-jnp.log(jnp.clip(noise["gumbel"], 1e-20, 1 - 1e-7)))
        codes, temperature = logits[..., : self.plan.codebook_size], noise["critic_temperature"]
        judged = critic_inputs(
            codes, masked.inputs, tokens, self.plan.mask_id, gumbel, jnp.maximum(temperature, 1e-10)
        )
        critic_condition = {name: value for name, value in condition.items() if name != "self"}
        return critic_loss(
            critic_logits(model, judged, critic_condition, under(noise, "critic")), judged, tokens
        )


FAMILY = MaskGITMethods
