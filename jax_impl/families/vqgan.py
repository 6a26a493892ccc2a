"""Image tokenizers for the engine: their training with or without a discriminator, and their modes.

Modes take the model and arrays with the batch first (NHWC, pictures uint8) and return such arrays. The model
is the tokenizer, with the attribute `discriminator`. Tokens are integers (B, h, w).
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array
from jax.lax import stop_gradient

from dioscuri.errors import UserError
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.families.vqgan import training
from dioscuri.families.vqgan.options import HParams
from dioscuri.families.vqgan.perceptual import perceptual_shapes, read_perceptual
from dioscuri.families.vqgan.stages import initial_weights, open_proxy
from dioscuri.plans.noise import NoiseSpec
from jax_impl.devices import COMPUTE_DTYPES
from jax_impl.families.adversaries import critic_of, encoder_sigmas, lecam_averages, updated_lecam
from jax_impl.families.frozen_tokenizer import FrozenTokenizer
from jax_impl.families.methods import FamilyMethods, Result, Scalars, added
from jax_impl.layers.pictures import from_range, to_range
from jax_impl.models.discriminator import build_discriminator
from jax_impl.models.tokenizers import build_tokenizer
from jax_impl.models.vqgan import Quantised, averaged_codebook
from jax_impl.objectives.perceptual import mean_distance
from jax_impl.objectives.vqgan import (
    Distance,
    code_counts,
    code_losses,
    discriminator_terms,
    generator_terms,
    perplexity,
    quantiser_loss,
    reconstruction,
)
from jax_impl.optim.flat import canonical_name
from jax_impl.trainer import Trainer, TrainState

Arrays = Mapping[str, Array]
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
        self.first_stage = hparams.model.decoder_output == "proxy_codes"

    def build(self) -> Model:
        """The model; its parameters need not be initialised."""
        model: Model = build_tokenizer(self.plan, checkpoint=self.hparams.train.checkpoint_activations)
        if self.critic is not None:
            model.discriminator = build_discriminator(self.critic)
        return model

    def noise_specs(self, method: str, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a method for a batch of this size; only training uses any."""
        if method != "train_step":
            return ()
        quantiser_noise = tokenizers.noise(self.plan, batch)
        return quantiser_noise + training.reset_noise(self.hparams.loss, batch, self.plan.vector_shape)

    def initial_parameters(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values under canonical names; the second of two stages takes those of the first."""
        return initial_weights(self.hparams, seed)

    def initial_buffers(self, seed: int) -> dict[str, np.ndarray]:
        """Buffers of the quantiser, of spectral normalisation and of the dead-code reset."""
        return training.initial_buffers(self.hparams, seed)

    def loss(
        self, model: Model, batch: Arrays, noise: Arrays, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """The tokenizer's loss, plus the discriminator's if both are updated at once; metrics and new
        buffers."""
        powers, x = self._powers(model, buffers), self._pictures(batch)
        z = model.encode(x, {**noise, **powers})
        quantised = model.quantise(z, noise, scalars, self._after_reset(buffers), train=True)
        trunk = model.decode_trunk(quantised.codes, noise, **self._text(batch))
        if self.first_stage:
            loss = self._code_losses(batch, model.output(trunk), frozen).mean()
            vectors: Result = {}
            metrics = {"reconstruction": loss}
        else:
            loss, metrics, vectors = self._picture_loss(model, x, trunk, scalars, buffers, frozen)
        quantiser = self._quantiser_loss(quantised, scalars)
        loss = loss + self.hparams.loss.codebook_weight * quantiser
        metrics |= {"loss": loss, "quantiser": quantiser}
        metrics, new = self._metrics(metrics, quantised, z, noise, buffers)
        return loss, metrics, {**buffers, **powers, **vectors, **new}

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Arrays,
        noise: Arrays,
        scalars: Scalars,
        frozen: Arrays,
    ) -> tuple[TrainState, Result, Array]:
        """The plain step, or the discriminator's update and then the tokenizer's against the updated one."""
        earlier: Result = {}
        second = self.plan.proxy is not None
        trained = of_second_stage if second else None
        if scalars["adversarial"] and self.hparams.loss.alternating:
            objective = self._objective(self.discriminator_loss, state, scalars, frozen)
            gradient, earlier, buffers = trainer.gradient(objective, state, batch, noise)
            state, _ = trainer.update(state, gradient, scalars, of_discriminator, last=False)
            state, trained = trainer.keep_buffers(state, buffers), of_decoders if second else of_tokenizer
        objective = self._objective(self.loss, state, scalars, frozen)
        gradient, metrics, buffers = trainer.gradient(objective, state, batch, noise)
        state, norm = trainer.update(state, gradient, scalars, trained)
        state = trainer.keep_buffers(state, buffers)
        if state.buffers:
            overwritten = self.overwritten(state.buffers, trainer.parameters_of(state))
            state = trainer.overwrite(state, overwritten)
        return state, added(earlier, metrics), norm

    def frozen(self) -> dict[str, np.ndarray]:
        """Weights of perceptual networks, or of the tokenizer whose codes are learnt."""
        loss = self.hparams.loss
        if self.first_stage:
            return self.proxy.frozen() if loss.proxy_path else {}
        return read_perceptual(loss)

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of these weights."""
        if self.first_stage:
            return super().frozen_shapes()
        return perceptual_shapes(self.hparams.loss)

    def uses_frozen(self, method: str) -> bool:
        """Perceptual networks measure reconstructions; another tokenizer decodes its codes."""
        return method != "encode" and (method != "decode" or self.first_stage)

    def overwritten(self, buffers: Arrays, parameters: Arrays) -> Result:
        """The codebook, if it follows from the quantiser's buffers or dead codes are reset, and the encoder's
        singular values."""
        name = tokenizers.codebook_name(self.plan)
        codebook_of_averages = averaged_codebook(self.plan, buffers)
        sigmas = {
            f"{buffer.removeprefix('sigma.')}.sigma": value
            for buffer, value in buffers.items()
            if buffer.startswith("sigma.")
        }
        if "code_shift" in buffers:
            sigmas[name] = parameters[name] + buffers["code_shift"]
        if "share" not in buffers:
            return sigmas if codebook_of_averages is None else {**sigmas, name: codebook_of_averages}
        codebook = parameters[name] if codebook_of_averages is None else codebook_of_averages
        dead = rearrange(self._dead(buffers["share"]), "k -> k 1")
        return {**sigmas, name: jnp.where(dead, buffers["candidates"], codebook)}

    def reconstruct(self, model: Model, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`image` (B, H, W, C), `tokens` (B, h, w), `reconstruction` (B,) and, with the weights of a
        perceptual network, `perceptual` (B,)."""
        x = self._pictures(batch)
        quantised = model.quantise(model.encode(x))
        made = model.decode(quantised.codes, **self._text(batch))
        if self.first_stage:
            return {
                "image": self.proxy.decode(made.argmax(-1), frozen),
                "tokens": quantised.indices.astype(jnp.int32),
                "reconstruction": self._code_losses(batch, made, frozen),
            }
        results = {
            "image": from_range(made, self.plan.pixel_range),
            "tokens": quantised.indices.astype(jnp.int32),
            "reconstruction": reconstruction(x, made, self.hparams.loss.reconstruction),
        }
        distance = self._distance(frozen)
        return results if distance is None else results | {"perceptual": distance(x, made)}

    def evaluate(self, model: Model, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """The same as `reconstruct`, without the pictures."""
        results = self.reconstruct(model, batch, noise, frozen)
        return {name: value for name, value in results.items() if name != "image"}

    def encode(self, model: Model, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`tokens` (B, h, w), or (B, T)."""
        if not self.plan.codebook_size:
            raise UserError("this tokenizer has no codes, so pictures have no tokens: use reconstruct")
        return {"tokens": model.quantise(model.encode(self._pictures(batch))).indices.astype(jnp.int32)}

    def decode(self, model: Model, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`image` (B, H, W, C) from `tokens` (B, h, w) or (B, T) and, for a decoder that reads it, `text`."""
        made = model.decode_indices(batch["tokens"], **self._text(batch))
        if self.first_stage:
            return {"image": self.proxy.decode(made.argmax(-1), frozen)}
        return {"image": from_range(made, self.plan.pixel_range)}

    def discriminator_loss(
        self, model: Model, batch: Arrays, noise: Arrays, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """The discriminator's loss; metrics, of which the tokenizer's are 0; and new buffers."""
        x = self._pictures(batch)
        z = model.encode(x, {**noise, **self._powers(model, buffers)})
        codes = model.quantise(z, noise, scalars, self._after_reset(buffers), train=True).codes
        made = stop_gradient(model.output(model.decode_trunk(codes, noise, **self._text(batch))))
        critic, vectors = critic_of(model, buffers)
        options = self.hparams.loss
        loss, metrics = discriminator_terms(x, made, options, critic, lecam_averages(buffers))
        vectors |= updated_lecam(buffers, metrics, options.lecam_decay)
        all_metrics = dict.fromkeys(training.METRICS, jnp.zeros_like(loss)) | metrics | {"loss": loss}
        return loss, all_metrics, {**buffers, **vectors}

    def _picture_loss(
        self, model: Model, x: Array, trunk: Array, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """Losses of reconstructions of pictures x, with the discriminator's if both are updated at once,
        metrics, and the critic's new buffers."""
        options = self.hparams.loss
        made, pull_back = _output(model, trunk, tokenizers.last_layer_name(self.plan))

        constant = (
            None if not scalars["adversarial"] else critic_of(jax.tree.map(stop_gradient, model), buffers)[0]
        )
        loss, metrics = generator_terms(x, made, options, self._distance(frozen), constant, pull_back)
        if constant is None or options.alternating:
            return loss, metrics, {}
        critic, vectors = critic_of(model, buffers)
        of_critic, more = discriminator_terms(x, made, options, critic, lecam_averages(buffers))
        vectors |= updated_lecam(buffers, more, options.lecam_decay)
        return loss + of_critic, metrics | more, vectors

    def _powers(self, model: Model, buffers: Arrays) -> dict[str, Array]:
        """The result of `encoder_sigmas`, or nothing if training does not update singular values."""
        frozen = self.hparams.model.legacy_frozen_spectral_norm
        return {} if frozen else encoder_sigmas(model, buffers)

    def _quantiser_loss(self, quantised: Quantised, scalars: Scalars) -> Array:
        """The quantiser's losses, with the additional entropy loss of the first steps."""
        if not self.hparams.loss.entropy_annealing_factor:
            return quantised.losses["quantiser"]
        weight = scalars["entropy_annealing"] * self.hparams.model.entropy_loss_ratio
        return quantiser_loss(quantised.losses, weight)

    def _metrics(
        self, metrics: Result, quantised: Quantised, z: Array, noise: Arrays, buffers: Arrays
    ) -> tuple[Result, Result]:
        """All of `training.METRICS`, and new buffers."""
        loss = metrics["loss"]
        counts = code_counts(quantised.indices, self.plan.codebook_size, loss.dtype)
        all_metrics = dict.fromkeys(training.METRICS, jnp.zeros_like(loss)) | metrics
        if self.plan.codebook_size:
            all_metrics["usage"] = (counts > 0).astype(loss.dtype).mean()
            all_metrics["perplexity"] = perplexity(counts)
        new = dict(quantised.buffers)
        if "share" in buffers:
            new |= self._dead_code_reset(noise["dead_code_reset"], buffers["share"], counts, z)
        return all_metrics, new

    def _after_reset(self, buffers: Arrays) -> dict[str, Array]:
        """The quantiser's buffers, with the averages of codes that were reset
        after the last step restarted."""
        buffers = dict(buffers)
        if "share" in buffers and "cluster_size" in buffers:
            dead = self._dead(buffers["share"])
            size, total = buffers["cluster_size"], buffers["embedding_sum"]
            buffers["cluster_size"] = jnp.where(dead, 1, size)
            buffers["embedding_sum"] = jnp.where(rearrange(dead, "k -> k 1"), buffers["candidates"], total)
        return buffers

    def _dead_code_reset(self, uniform: Array, share: Array, counts: Array, z: Array) -> dict[str, Array]:
        """New `share` of the codes, starting from 1 / codes for those reset after the last step, and
        `candidates`, as many encoder outputs of the batch as there are codes."""
        decay, K = self.hparams.loss.revive_decay, self.plan.codebook_size
        share = jnp.where(self._dead(share), 1 / K, share)
        vectors = rearrange(stop_gradient(z), "b h w d -> (b h w) d")
        order = jnp.argsort(uniform.reshape(-1))
        chosen = order[jnp.arange(K) % len(order)]
        return {
            "share": decay * share + (1 - decay) * counts / counts.sum(),
            "candidates": vectors[chosen],
        }

    @cached_property
    def proxy(self) -> FrozenTokenizer:
        """The tokenizer whose codes the first of two stages learns."""
        return FrozenTokenizer(open_proxy(self.hparams).path)

    def _proxy_codes(self, batch: Arrays, frozen: Arrays) -> Array:
        """Codes (B, h, w) that the first stage learns; a step that is described has them in its batch."""
        if "codes" in batch:
            return batch["codes"]
        return self.proxy.encode(batch["image"], frozen)

    def _code_losses(self, batch: Arrays, logits: Array, frozen: Arrays) -> Array:
        """Mean cross-entropies (B,) of those codes."""
        return code_losses(logits, self._proxy_codes(batch, frozen))

    def _text(self, batch: Arrays) -> dict[str, Array]:
        """Arguments of a decoder that reads texts."""
        if self.plan.one_d is None or not self.plan.one_d.text:
            return {}
        if "text" not in batch:
            raise UserError(
                "this tokenizer decodes tokens together with encoded texts, which are lacking here: set "
                "data.text_encoder_path for captions of pictures"
            )
        return {"text": batch["text"]}

    def _pictures(self, batch: Arrays) -> Array:
        """Pictures in the tokenizer's range, in at least float32."""
        dtype = jnp.float64 if self.dtype == jnp.float64 else jnp.float32
        return to_range(batch["image"], self.plan.pixel_range, dtype)

    def _distance(self, frozen: Arrays) -> Distance | None:
        """The mean distance by the perceptual networks whose weights are given."""
        return mean_distance(self.hparams.loss, frozen, self.dtype, unit=self.plan.pixel_range == "unit")

    def _dead(self, share: Array) -> Array:
        """Which codes (K,) are used too rarely."""
        dead: Array = share < self.hparams.loss.revive_below / self.plan.codebook_size
        return dead


def of_decoders(name: str) -> bool:
    """Whether a parameter is one of the tokenizer that the second of two stages trains."""
    return name.startswith(("decoder.", "pixel_"))


def of_second_stage(name: str) -> bool:
    """Whether the second of two stages trains a parameter."""
    return of_decoders(name) or of_discriminator(name)


def of_discriminator(name: str) -> bool:
    """Whether a parameter is the discriminator's."""
    return name.startswith("discriminator.")


def of_tokenizer(name: str) -> bool:
    """Whether a parameter is the tokenizer's."""
    return not of_discriminator(name)


def _output(model: Model, trunk: Array, name: str) -> tuple[Array, Callable[[Array], Array]]:
    """Pictures, and a function from a gradient with respect to them to one with
    respect to the last kernel."""
    parts: Any = nnx.split(jax.tree.map(stop_gradient, model), nnx.Param, ...)
    graph, params, rest = parts
    flat: dict[Any, Any] = dict(nnx.to_flat_state(params))
    path = next(path for path in flat if canonical_name(path) == name)

    def output(kernel: Array) -> Array:
        params = nnx.from_flat_state({**flat, path: flat[path].replace(kernel)})
        merged: Model = nnx.merge(graph, params, rest)
        pictures: Array = merged.output(stop_gradient(trunk))
        return pictures

    _, pull_back = jax.vjp(output, flat[path][...])
    return model.output(trunk), lambda gradient: pull_back(gradient)[0]


FAMILY = TokenizerMethods
