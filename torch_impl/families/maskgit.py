"""Masked token models for the engine: their loss, and their modes as functions of tensors.

Modes take the model, arrays with the batch first and noise, and return such arrays. Tokens are integers (B,
L), row by row; pictures are uint8 NHWC. A batch's arrays `label`, `text`, `text_mask`, `pooled` and `micro`
are conditions, as far as the model has them.
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from dioscuri.families.maskgit import training, transformers
from dioscuri.families.maskgit.decoding import rolls, step_noise_specs
from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.training import embedding_shape
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.families.token_models.texts import empty_text
from dioscuri.plans.noise import NoiseSpec
from torch_impl.families.frozen_tokenizer import FrozenTokenizer
from torch_impl.families.methods import Result, Scalars
from torch_impl.families.token_models import TokenModelMethods
from torch_impl.layers.bits import combine_groups, split_tokens
from torch_impl.layers.named import under
from torch_impl.models.critic import critic_logits
from torch_impl.models.transformers import build_transformer
from torch_impl.objectives.masked_tokens import (
    Terms,
    critic_inputs,
    critic_loss,
    cross_entropy,
    soft_targets,
    statistics,
    token_terms,
    training_loss,
)
from torch_impl.objectives.masking import IGNORED, Masked, drop_condition, mask_tokens
from torch_impl.samplers.decoder import Predictor
from torch_impl.samplers.noise import random_offsets, recorded_noise, step_noise, whole_numbers_below
from torch_impl.samplers.tokens import sample_tokens
from torch_impl.trainer import Trainer, TrainState

Tensors = Mapping[str, Tensor]


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

    def build(self) -> nn.Module:
        """The model; its parameters need not be initialised."""
        train = self.hparams.train
        return build_transformer(self.plan, checkpoint=train.checkpoint_activations)

    def _training_noise(self, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a training step for a batch of this size."""
        return training.training_noise(self.hparams, self.plan, batch, self.hparams.data.text_length)

    def loss(
        self, model: Any, batch: Tensors, noise: Tensors, scalars: Scalars, buffers: Tensors, frozen: Tensors
    ) -> tuple[Tensor, Result, Result]:
        """The loss of this batch's masked tokens, and of the critic."""
        return *training_loss(self._terms(model, batch, noise, frozen), self.hparams.loss), {}

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Tensors,
        noise: Tensors,
        scalars: Scalars,
        frozen: Tensors,
    ) -> tuple[TrainState, Result, Tensor]:
        """The plain step; a loss normalised by tokens divides by the mean over the global batch."""
        by_tokens, weight = self.hparams.loss.normalisation == "tokens", None
        if by_tokens and trainer.accumulation_steps > 1:
            # In a separate pass: the loss of every micro-batch needs the mean over all.
            def mean_weight(model: Any, batch: Tensors, noise: Tensors) -> Result:
                return {"weight": statistics(self._terms(model, batch, noise, frozen))}

            weight = trainer.mean(mean_weight, state, batch, noise)["weight"]

        def objective(model: Any, batch: Tensors, noise: Tensors) -> tuple[Tensor, Result, Result]:
            terms, mean = self._terms(model, batch, noise, frozen), weight
            if by_tokens and mean is None:
                mean = trainer.over_processes(statistics(terms))
            return *training_loss(terms, self.hparams.loss, mean), {}

        gradient, metrics, _ = trainer.gradient(objective, state, batch, noise)
        state, norm = trainer.update(state, gradient, scalars)
        return state, metrics, norm

    def evaluate(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`cross_entropy` in nats per masked token and `accuracy`, both (B,), of the
        tokens under `mask` (B, L)."""
        tokens, mask = self._ids(batch, frozen), batch["mask"].bool()
        inputs = torch.where(mask, self.plan.mask_id, tokens)
        condition = self._condition(batch) | self._time(mask.to(self.dtype).mean(1))
        if self.plan.options.self_cond:
            condition["self"] = model(inputs, condition)[1]["embed"]
        logits, _ = model(inputs, condition)
        losses = cross_entropy(logits, torch.where(mask, tokens, IGNORED))
        n = mask.sum(1).to(losses.dtype)
        right = mask & (logits.argmax(-1) == tokens)
        return {"cross_entropy": losses.sum(1) / n, "accuracy": right.sum(1) / n}

    def generate(
        self,
        model: Any,
        batch: Tensors,
        noise: Mapping[str, Any],
        frozen: Tensors,
        every_step: bool = False,
        sampling: Sampling | None = None,
        schedule: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """`tokens` (B, L) and, with a tokenizer, `image` (B, H, W, C), for the conditions of the batch;
        without any, `index` (B,) gives the batch size.

        `taken` (B,) is the number of steps that the batch needed. `every_step` adds each step's prediction of
        all tokens, `steps` (B, T, L), and which of them are masked again, `masked` (B, T, L). `sampling`
        replaces the options of `[synthesis]`, and `schedule` what `make_numbers` gives for these.
        """
        example = next(value for name, value in batch.items() if name in ("index", *self.plan.conditions))
        B = len(example)
        start = torch.full((B, self.plan.n_tokens), self.plan.mask_id, device=example.device)
        drawing = (sampling or self.hparams.synthesis, schedule, every_step)
        return self._sampled(model, start, batch, noise, frozen, drawing)

    def inpaint(
        self,
        model: Any,
        batch: Tensors,
        noise: Mapping[str, Any],
        frozen: Tensors,
        every_step: bool = False,
        sampling: Sampling | None = None,
        schedule: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The same as `generate`, for pictures or tokens that are known except at `unknown` (B, L)."""
        unknown = repeat(batch["unknown"].bool(), "b l -> b (l m)", m=self.plan.splits)
        start = torch.where(unknown, self.plan.mask_id, self._ids(batch, frozen))
        drawing = (sampling or self.hparams.synthesis, schedule, every_step)
        return self._sampled(model, start, batch, noise, frozen, drawing)

    def _terms(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> Terms:
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
        start: Tensor,
        batch: Tensors,
        noise: Mapping[str, Any],
        frozen: Tensors,
        drawing: tuple[Sampling, Sequence[Tensor] | None, bool],
    ) -> dict[str, Tensor]:
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
            embedding=torch.zeros(embedding_shape(plan, B), dtype=self.dtype, device=start.device)
            if plan.options.self_cond
            else None,
            offsets=offsets,
            every_step=every_step,
            numbers=numbers,
        )
        taken = {"taken": torch.full((B,), sampled.taken, dtype=torch.int32, device=start.device)}
        if not every_step:
            return taken | self._results(sampled.tokens, batch, frozen)
        masked = sampled.inputs[1:] == plan.mask_id
        masked = torch.cat([masked, torch.zeros_like(masked[:1])])
        return taken | self._results(sampled.tokens, batch, frozen, sampled.drawn, masked)

    def _ids(self, batch: Tensors, frozen: Tensors) -> Tensor:
        """The network's codes (B, L) of the batch's tokens, or of its pictures' tokens."""
        tokens, plan = self._tokens(batch, frozen), self.plan
        return tokens if plan.splits == 1 else split_tokens(tokens, plan.splits, plan.group_bits)

    def _results(
        self,
        tokens: Tensor,
        batch: Tensors,
        frozen: Tensors,
        steps: Tensor | None = None,
        masked: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See `TokenModelMethods`. Groups become tokens, which are masked if one of their groups is."""
        splits, bits = self.plan.splits, self.plan.group_bits
        if splits > 1:
            tokens = combine_groups(tokens, splits, bits)
            steps = None if steps is None else combine_groups(steps, splits, bits)
            masked = None if masked is None else reduce(masked, "t b (l m) -> t b l", "any", m=splits)
        return super()._results(tokens, batch, frozen, steps, masked)

    def _targets(self, batch: Tensors, frozen: Tensors) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, L) and, if the loss uses them, soft targets (B, L, K)."""
        loss = self.hparams.loss
        if not loss.use_soft_code_target:
            return self._ids(batch, frozen), None
        distances = self._codec().distances(batch["image"], frozen)
        distances = rearrange(distances, "b ... k -> b (...) k")
        return distances.argmin(-1), soft_targets(distances, loss.soft_code_temp)

    def _condition(self, batch: Tensors) -> dict[str, Tensor]:
        """The conditions in a batch, with `text_keep` (B,) if there is text."""
        names = (*self.plan.conditions, *(() if self.hparams.data.attend_padding else ("text_mask",)))
        condition = {name: batch[name] for name in names if name in batch}
        if "text" in condition:
            condition["text_keep"] = torch.ones_like(condition["text"][:, 0, 0])
        return condition

    def _time(self, share: Tensor) -> dict[str, Tensor]:
        """The time (B,) that a network is told that depends on it, from the share (B,) of masked tokens."""
        plan = self.plan
        return {"timestep": plan.options.timestep_factor * share} if plan.takes_timestep else {}

    def _null(self, frozen: Tensors, condition: Tensors, batch: Tensors | None = None) -> dict[str, Tensor]:
        """The null condition: the null label, and the batch's `null.<name>` (negative prompts), or else the
        encoded empty text or, without it, no text and a pooled state of zeros."""
        null_text = under(frozen, "null") | under(batch, "null")
        values = {"label": self.plan.null_label, "text_keep": 0, "pooled": 0}
        if "text" in null_text:
            del values["text_keep"]
        null = {
            name: torch.full_like(condition[name][:1], value)
            for name, value in values.items()
            if name in condition
        }
        return null | {
            name: null_text[name].to(condition[name].dtype) for name in null_text if name in condition
        }

    def _first_pass(self, model: Any, masked: Masked, condition: Tensors, uniform: Tensor) -> Tensor:
        """The embedding of a first pass without gradient; zero for pictures that get no such pass."""
        with torch.no_grad():
            embed = model(masked.inputs, condition)[1]["embed"]
        chosen = rearrange(uniform < self.hparams.loss.self_cond_prob, "b -> b 1 1")
        return torch.where(chosen, embed, 0)

    def _critic_loss(
        self,
        model: Any,
        logits: Tensor,
        masked: Masked,
        tokens: Tensor,
        condition: Tensors,
        noise: Tensors,
    ) -> Tensor:
        gumbel = -torch.log(-torch.log(noise["gumbel"].clamp(1e-20, 1 - 1e-7)))
        codes, temperature = logits[..., : self.plan.codebook_size].detach(), noise["critic_temperature"]
        judged = critic_inputs(
            codes, masked.inputs, tokens, self.plan.mask_id, gumbel, temperature.clamp(min=1e-10)
        )
        critic_condition = {name: value for name, value in condition.items() if name != "self"}
        return critic_loss(
            critic_logits(model, judged, critic_condition, under(noise, "critic")), judged, tokens
        )


FAMILY = MaskGITMethods
