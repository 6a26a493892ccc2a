"""SUNDAE for the engine: its loss, and its modes as functions of tensors.

Modes take the model, arrays with the batch first and noise, and return such arrays. Tokens are integers (B,
L), row by row; pictures are uint8 NHWC. With classes a batch has `label` (B,).
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dioscuri.families.sundae import plan as denoiser
from dioscuri.families.sundae import training as denoising
from dioscuri.families.sundae.denoising_options import Resampling
from dioscuri.families.sundae.options import HParams
from dioscuri.plans.noise import NoiseSpec
from torch_impl.families.frozen_tokenizer import open_frozen_tokenizer
from torch_impl.families.methods import Result, Scalars, added
from torch_impl.families.token_models import TokenModelMethods
from torch_impl.models.denoiser import build_denoiser
from torch_impl.objectives.masked_tokens import cross_entropy
from torch_impl.objectives.sundae import corrupt, pass_terms, unrolled_loss
from torch_impl.samplers.noise import random_tokens, recorded_noise, step_noise, whole_numbers_below
from torch_impl.samplers.sundae import resample_tokens
from torch_impl.trainer import Trainer, TrainState

Tensors = Mapping[str, Tensor]


class SundaeMethods(TokenModelMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    def __init__(self, hparams: HParams) -> None:
        self.hparams = hparams
        self.plan = denoiser.plan_of(hparams)
        self.table = denoiser.parameter_table(self.plan)
        self.weight_decay = hparams.loss.weight_decay
        self.metric_sizes = denoising.metric_sizes(hparams.loss)
        self.tokenizer = open_frozen_tokenizer(hparams.data)

    def initial_parameters(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values under canonical names."""
        return denoiser.initial_parameters(self.plan, seed)

    def decayed(self, name: str) -> bool:
        """Whether weight decay acts on a parameter."""
        return bool(self.table[name].decays) or self.hparams.loss.legacy_weight_decay

    def frozen(self) -> dict[str, np.ndarray]:
        """Weights of the tokenizer."""
        return {} if self.tokenizer is None else self.tokenizer.frozen()

    def build(self) -> nn.Module:
        """The model; its parameters need not be initialised."""
        train = self.hparams.train
        return build_denoiser(self.plan, checkpoint=train.checkpoint_activations)

    def _training_noise(self, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a training step for a batch of this size."""
        return denoising.training_noise(self.hparams.loss, self.plan, batch)

    def loss(
        self, model: Any, batch: Tensors, noise: Tensors, scalars: Scalars, buffers: Tensors, frozen: Tensors
    ) -> tuple[Tensor, Result, Result]:
        """The sum of the unrolled passes' losses, and their metrics."""
        tokens = self._tokens(batch, frozen)
        losses: list[Tensor] = []
        metrics: Result = {}
        inputs = None
        for k in range(self.hparams.loss.unroll_steps):
            loss, of_pass, inputs = self._pass(k, inputs, tokens, batch, noise, model)
            losses.append(loss)
            metrics = added(metrics, of_pass)
        return sum(losses[1:], losses[0]), metrics, {}

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Tensors,
        noise: Tensors,
        scalars: Scalars,
        frozen: Tensors,
    ) -> tuple[TrainState, Result, Tensor]:
        """One update by the sum of all passes' gradients, which are added one after the other."""
        n = self.hparams.loss.unroll_steps

        def micro_batch(batch: Tensors, noise: Tensors) -> tuple[Result, ...]:
            tokens, inputs = self._tokens(batch, frozen), None
            metrics: Result = {}
            for k in range(n):
                unroll = partial(self._pass, k, inputs, tokens, batch, noise)
                # The next pass begins after this gradient: memory holds one pass at a time.
                of_pass, inputs = trainer.add_gradient(unroll, more=k < n - 1)
                metrics = added(metrics, of_pass)
            return (metrics,)

        (metrics,) = trainer.over_micro_batches(micro_batch, batch, noise)
        state, norm = trainer.update(state, trainer.grad, scalars)
        return state, metrics, norm

    def evaluate(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`cross_entropy` in nats and `accuracy`, both (B,), of the tokens under `mask` (B, L), where the
        network sees `replacement` (B, L)."""
        tokens, mask = self._tokens(batch, frozen), batch["mask"].bool()
        inputs = torch.where(mask, batch["replacement"].to(tokens.dtype), tokens)
        logits, _ = model(inputs, self._condition(batch))
        losses, right = cross_entropy(logits, tokens), logits.argmax(-1) == tokens
        n = mask.sum(1).to(losses.dtype)
        return {"cross_entropy": (losses * mask).sum(1) / n, "accuracy": (right & mask).sum(1) / n}

    def generate(
        self,
        model: Any,
        batch: Tensors,
        noise: Mapping[str, Any],
        frozen: Tensors,
        every_step: bool = False,
        sampling: Resampling | None = None,
        schedule: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """`tokens` (B, L) and, unless the model is of text or lacks a tokenizer, `image` (B, H, W, C), for
        the classes of the batch; without any, `index` (B,) gives the batch size. Initial tokens are random,
        or `start` (B, L).

        `taken` (B,) is the number of steps after which a picture was finished. `every_step` adds the tokens
        after each step, `steps` (B, T, L), and which of them differ from the final ones, `masked` (B, T, L).
        `sampling` replaces the options of `[synthesis]`, and `schedule` what `make_sampling_schedule` gives
        for these.
        """
        example = next(value for name, value in batch.items() if name in ("index", "label", "start"))
        start = batch.get("start")
        if start is None:
            start = self._random(noise, len(example))
        drawing = (sampling or self.hparams.synthesis, schedule, every_step)
        return self._sample(model, start.to(torch.int64), None, batch, noise, frozen, drawing)

    def inpaint(
        self,
        model: Any,
        batch: Tensors,
        noise: Mapping[str, Any],
        frozen: Tensors,
        every_step: bool = False,
        sampling: Resampling | None = None,
        schedule: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The same as `generate`, for pictures or tokens that are known except at `unknown` (B, L)."""
        unknown, tokens = batch["unknown"].bool(), self._tokens(batch, frozen)
        start = torch.where(unknown, self._random(noise, len(tokens)), tokens)
        drawing = (sampling or self.hparams.synthesis, schedule, every_step)
        return self._sample(model, start, ~unknown, batch, noise, frozen, drawing)

    def _pass(
        self, k: int, inputs: Tensor | None, tokens: Tensor, batch: Tensors, noise: Tensors, model: Any
    ) -> tuple[Tensor, Result, Tensor]:
        """Loss and metrics of pass k, and the next pass's inputs. A pass predicts the tokens from the
        previous pass's samples, the first one from corrupted tokens."""
        if inputs is None:
            K = self.plan.codebook_size
            inputs = corrupt(tokens, noise["share"], noise["corrupt"], noise["replacement"], K)
        logits, _ = model(inputs, self._condition(batch))
        terms = pass_terms(logits, tokens, noise.get(f"unroll.{k}"))
        return *unrolled_loss(terms, self.hparams.loss, k), terms.unrolled

    def _sample(
        self,
        model: Any,
        start: Tensor,
        known: Tensor | None,
        batch: Tensors,
        noise: Mapping[str, Any],
        frozen: Tensors,
        drawing: tuple[Resampling, Sequence[Tensor] | None, bool],
    ) -> dict[str, Tensor]:
        """Sample with `drawing`: options, their schedule, and whether to return every step."""
        (options, given, every_step), plan = drawing, self.plan
        schedule = denoising.make_sampling_schedule(options) if given is None else given
        condition, specs = self._condition(batch), denoising.step_noise_specs(options, plan, len(start))
        recorded = "sampling" not in noise
        draw = recorded_noise(noise, specs) if recorded else step_noise(noise["sampling"], specs, self.dtype)
        sampled = resample_tokens(
            lambda ids: model(ids, condition)[0],
            start,
            draw,
            denoising.SamplingSchedule(*schedule),
            options,
            known,
            every_step=every_step,
        )
        taken = {"taken": sampled.taken}
        if not every_step:
            return taken | self._results(sampled.tokens, batch, frozen)
        changes = sampled.steps != sampled.tokens[None]
        return taken | self._results(sampled.tokens, batch, frozen, sampled.steps, changes)

    def _random(self, noise: Mapping[str, Any], batch: int) -> Tensor:
        if "start" in noise:
            return whole_numbers_below(noise["start"], self.plan.codebook_size)
        return random_tokens(noise["sampling"], (batch, self.plan.n_tokens), self.plan.codebook_size)

    def _condition(self, batch: Tensors) -> dict[str, Tensor]:
        """The conditions in a batch."""
        return {name: batch[name] for name in self.plan.conditions}


FAMILY = SundaeMethods
