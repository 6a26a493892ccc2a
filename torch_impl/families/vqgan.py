"""Image tokenizers for the engine: their training with or without a discriminator, and their modes.

Modes take the model and arrays with the batch first (NHWC, pictures uint8) and return such arrays. The model
is the tokenizer, with the attribute `discriminator`. Tokens are integers (B, h, w).
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.families.vqgan import training
from dioscuri.families.vqgan.lpips import weight_shapes
from dioscuri.families.vqgan.lpips_weights import read_lpips
from dioscuri.families.vqgan.options import HParams
from dioscuri.plans.noise import NoiseSpec
from torch_impl.devices import COMPUTE_DTYPES, of_first_process
from torch_impl.families.adversaries import critic_of, encoder_sigmas, lecam_averages, updated_lecam
from torch_impl.families.methods import FamilyMethods, Result, Scalars, added
from torch_impl.layers.pictures import from_range, to_range
from torch_impl.models.discriminator import build_discriminator
from torch_impl.models.lpips import lpips
from torch_impl.models.vqgan import Quantised, averaged_codebook, build_tokenizer
from torch_impl.objectives.vqgan import (
    Distance,
    code_counts,
    discriminator_terms,
    generator_terms,
    perplexity,
    quantiser_loss,
    reconstruction,
)
from torch_impl.sharding import blocks_of
from torch_impl.trainer import Trainer, TrainState

Tensors = Mapping[str, Tensor]
Model = Any
"""The tokenizer, with the attribute `discriminator`."""


class TokenizerMethods(FamilyMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    def __init__(self, hparams: HParams) -> None:
        self.hparams, self.table = hparams, training.parameter_table(hparams)
        self.plan, self.critic = training.plans(hparams)
        self.weight_decay, self.switches = hparams.loss.weight_decay, ("adversarial",)
        self.metric_sizes = dict.fromkeys(training.METRICS, 0)
        self.dtype = COMPUTE_DTYPES[hparams.train.precision]

    def build(self) -> Model:
        """The model; its parameters need not be initialised."""
        model: Model = build_tokenizer(self.plan, checkpoint=self.hparams.train.checkpoint_activations)
        if self.critic is not None:
            model.discriminator = build_discriminator(self.critic)
        return model

    def regions(self, model: Model) -> list[nn.Module]:
        """Modules that are compiled separately. A critic whose gradient is differentiated again cannot be."""
        loss = self.hparams.loss
        penalised = loss.r1_cost > 0 or loss.gradient_penalty > 0
        critic = [] if self.critic is None or penalised else [model.discriminator]
        return [model.encoder, model.decoder, *critic]

    def blocks(self, model: Model) -> list[nn.Module]:
        """Those of encoder and decoder, but none if spectral normalisation reads their kernels before they
        run. The critic's gradient may be differentiated again."""
        if self.plan.spectral is not None:
            return []
        return [*blocks_of(model.encoder), *blocks_of(model.decoder)]

    def noise_specs(self, method: str, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a method for a batch of this size; only training uses any."""
        if method != "train_step":
            return ()
        quantiser_noise = tokenizers.noise(self.plan, batch)
        return quantiser_noise + training.reset_noise(self.hparams.loss, batch, self.plan.grid)

    def initial_buffers(self, seed: int) -> dict[str, np.ndarray]:
        """Buffers of the quantiser, of spectral normalisation and of the dead-code reset."""
        return training.initial_buffers(self.hparams, seed)

    def loss(
        self,
        model: Model,
        batch: Tensors,
        noise: Tensors,
        scalars: Scalars,
        buffers: Tensors,
        frozen: Tensors,
    ) -> tuple[Tensor, Result, Result]:
        """The tokenizer's loss, plus the discriminator's if both are updated at once; metrics and new
        buffers."""
        powers = self._powers(model, buffers)
        options = self.hparams.loss
        x = self._pictures(batch)
        z = model.encode(x, {**noise, **powers})
        quantised = model.quantise(z, noise, scalars, self._after_reset(buffers), train=True)
        made = model.output(model.decode_trunk(quantised.codes, noise))
        kernel = model.get_parameter(tokenizers.last_layer_name(self.plan))

        def pull_back(gradient: Tensor) -> Tensor:
            product: Tensor = torch.autograd.grad(made, kernel, gradient, retain_graph=True)[0]
            return product

        critic, vectors = (None, {}) if not scalars["adversarial"] else critic_of(model, buffers)
        loss, metrics = generator_terms(x, made, options, self._distance(frozen), critic, pull_back)
        quantiser = self._quantiser_loss(quantised, scalars)
        loss = loss + options.codebook_weight * quantiser
        if critic is not None and not options.alternating:
            of_critic, more = discriminator_terms(x, made, options, critic, lecam_averages(buffers))
            vectors |= updated_lecam(buffers, more, options.lecam_decay)
            loss, metrics, powers = loss + of_critic, metrics | more, powers | vectors
        metrics |= {"loss": loss, "quantiser": quantiser}
        metrics, new = self._metrics(metrics, quantised, z, noise, buffers)
        return loss, metrics, {**buffers, **powers, **new}

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Tensors,
        noise: Tensors,
        scalars: Scalars,
        frozen: Tensors,
    ) -> tuple[TrainState, Result, Tensor]:
        """The plain step, or the discriminator's update and then the tokenizer's against the updated one."""
        earlier: Result = {}
        trained = None
        if scalars["adversarial"] and self.hparams.loss.alternating:
            objective = self._objective(self.discriminator_loss, state, scalars, frozen)
            gradient, earlier, buffers = trainer.gradient(objective, state, batch, noise)
            state, _ = trainer.update(state, gradient, scalars, of_discriminator, last=False)
            state, trained = trainer.keep_buffers(state, buffers), of_tokenizer
        objective = self._objective(self.loss, state, scalars, frozen)
        gradient, metrics, buffers = trainer.gradient(objective, state, batch, noise)
        state, norm = trainer.update(state, gradient, scalars, trained)
        state = trainer.keep_buffers(state, buffers)
        if state.buffers:
            overwritten = self.overwritten(state.buffers, trainer.parameters_of(state))
            state = trainer.overwrite(state, overwritten)
        return state, added(earlier, metrics), norm

    def frozen(self) -> dict[str, np.ndarray]:
        """Weights of LPIPS."""
        loss = self.hparams.loss
        return read_lpips(loss.lpips_path, loss.vgg_path) if loss.lpips_path else {}

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights of LPIPS."""
        return weight_shapes() if self.hparams.loss.lpips_path else {}

    def uses_frozen(self, method: str) -> bool:
        """LPIPS measures reconstructions."""
        return method not in ("encode", "decode")

    def overwritten(self, buffers: Tensors, parameters: Tensors) -> Result:
        """The codebook, if it follows from the quantiser's buffers or dead codes are reset, and the encoder's
        singular values."""
        name = tokenizers.codebook_name(self.plan)
        codebook_of_averages = averaged_codebook(self.plan, buffers)
        sigmas = {
            f"{buffer.removeprefix('sigma.')}.sigma": value
            for buffer, value in buffers.items()
            if buffer.startswith("sigma.")
        }
        if "share" not in buffers:
            return sigmas if codebook_of_averages is None else {**sigmas, name: codebook_of_averages}
        codebook = parameters[name] if codebook_of_averages is None else codebook_of_averages
        dead = rearrange(self._dead(buffers["share"]), "k -> k 1")
        return {**sigmas, name: torch.where(dead, buffers["candidates"], codebook)}

    def reconstruct(self, model: Model, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`image` (B, H, W, C), `tokens` (B, h, w), `reconstruction` (B,) and, with the weights of LPIPS,
        `perceptual` (B,)."""
        x = self._pictures(batch)
        quantised = model.quantise(model.encode(x))
        made = model.decode(quantised.codes)
        results = {
            "image": from_range(made, self.plan.pixel_range),
            "tokens": quantised.indices.to(torch.int32),
            "reconstruction": reconstruction(x, made, self.hparams.loss.reconstruction),
        }
        distance = self._distance(frozen)
        return results if distance is None else results | {"perceptual": distance(x, made)}

    def evaluate(self, model: Model, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """The same as `reconstruct`, without the pictures."""
        results = self.reconstruct(model, batch, noise, frozen)
        return {name: value for name, value in results.items() if name != "image"}

    def encode(self, model: Model, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`tokens` (B, h, w)."""
        return {"tokens": model.quantise(model.encode(self._pictures(batch))).indices.to(torch.int32)}

    def decode(self, model: Model, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`image` (B, H, W, C) from `tokens` (B, h, w)."""
        made = model.decode_indices(batch["tokens"].to(torch.int64))
        return {"image": from_range(made, self.plan.pixel_range)}

    def discriminator_loss(
        self,
        model: Model,
        batch: Tensors,
        noise: Tensors,
        scalars: Scalars,
        buffers: Tensors,
        frozen: Tensors,
    ) -> tuple[Tensor, Result, Result]:
        """The discriminator's loss; metrics, of which the tokenizer's are 0; and new buffers."""
        x = self._pictures(batch)
        with torch.no_grad():
            z = model.encode(x, {**noise, **self._powers(model, buffers)})
            codes = model.quantise(z, noise, scalars, self._after_reset(buffers), train=True).codes
            made = model.output(model.decode_trunk(codes, noise))
        critic, vectors = critic_of(model, buffers)
        options = self.hparams.loss
        loss, metrics = discriminator_terms(x, made, options, critic, lecam_averages(buffers))
        vectors |= updated_lecam(buffers, metrics, options.lecam_decay)
        all_metrics = dict.fromkeys(training.METRICS, torch.zeros_like(loss)) | metrics | {"loss": loss}
        return loss, all_metrics, {**buffers, **vectors}

    def _powers(self, model: Model, buffers: Tensors) -> dict[str, Tensor]:
        """The result of `encoder_sigmas`, or nothing if training does not update singular values."""
        frozen = self.hparams.model.legacy_frozen_spectral_norm
        return {} if frozen else encoder_sigmas(model, buffers)

    def _quantiser_loss(self, quantised: Quantised, scalars: Scalars) -> Tensor:
        """The quantiser's losses, with the additional entropy loss of the first steps."""
        if not self.hparams.loss.entropy_annealing_factor:
            return quantised.losses["quantiser"]
        weight = scalars["entropy_annealing"] * self.hparams.model.entropy_loss_ratio
        return quantiser_loss(quantised.losses, weight)

    def _metrics(
        self,
        metrics: Result,
        quantised: Quantised,
        z: Tensor,
        noise: Tensors,
        buffers: Tensors,
    ) -> tuple[Result, Result]:
        """All of `training.METRICS`, and new buffers."""
        loss = metrics["loss"]
        counts = code_counts(quantised.indices, self.plan.codebook_size, loss.dtype)
        all_metrics = dict.fromkeys(training.METRICS, torch.zeros_like(loss)) | metrics
        all_metrics |= {
            "usage": (counts > 0).to(loss.dtype).mean(),
            "perplexity": perplexity(counts),
        }
        new = dict(quantised.buffers)
        if "share" in buffers:
            new |= self._dead_code_reset(noise["dead_code_reset"], buffers["share"], counts, z)
        return all_metrics, new

    def _after_reset(self, buffers: Tensors) -> dict[str, Tensor]:
        """The quantiser's buffers, with the averages of codes that were reset
        after the last step restarted."""
        buffers = dict(buffers)
        if "share" in buffers and "cluster_size" in buffers:
            dead = self._dead(buffers["share"])
            size, total = buffers["cluster_size"], buffers["embedding_sum"]
            buffers["cluster_size"] = torch.where(dead, 1, size)
            buffers["embedding_sum"] = torch.where(rearrange(dead, "k -> k 1"), buffers["candidates"], total)
        return buffers

    def _dead_code_reset(
        self, uniform: Tensor, share: Tensor, counts: Tensor, z: Tensor
    ) -> dict[str, Tensor]:
        """New `share` of the codes, starting from 1 / codes for those reset after the last step, and
        `candidates`, as many encoder outputs of the batch as there are codes."""
        decay, K = self.hparams.loss.revive_decay, self.plan.codebook_size
        share = torch.where(self._dead(share), 1 / K, share)
        vectors = rearrange(z.detach(), "b h w d -> (b h w) d")
        order = torch.argsort(uniform.flatten())
        chosen = order[torch.arange(K, device=order.device) % len(order)]
        return {
            "share": decay * share + (1 - decay) * counts / counts.sum(),
            "candidates": of_first_process(vectors[chosen]),
        }

    def _pictures(self, batch: Tensors) -> Tensor:
        """Pictures in the tokenizer's range, in at least float32."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return to_range(batch["image"], self.plan.pixel_range, dtype)

    def _distance(self, frozen: Tensors) -> Distance | None:
        """LPIPS, if its weights are given."""
        if not frozen:
            return None
        factor, summand = (2.0, -1.0) if self.plan.pixel_range == "unit" else (1.0, 0.0)

        def distance(x: Tensor, made: Tensor) -> Tensor:
            return lpips(factor * x + summand, factor * made + summand, frozen, self.dtype)

        return distance

    def _dead(self, share: Tensor) -> Tensor:
        """Which codes (K,) are used too rarely."""
        dead: Tensor = share < self.hparams.loss.revive_below / self.plan.codebook_size
        return dead


def of_discriminator(name: str) -> bool:
    """Whether a parameter is the discriminator's."""
    return name.startswith("discriminator.")


def of_tokenizer(name: str) -> bool:
    """Whether a parameter is the tokenizer's."""
    return not of_discriminator(name)


FAMILY = TokenizerMethods
