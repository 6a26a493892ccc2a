"""Models with groups of latents for the engine: noise, loss, and modes as functions of arrays.

Modes take the model, arrays with the batch first (NHWC, pictures uint8) and noise, and return such arrays;
terms of the bound are in nats per picture. `image` also holds sounds and clips.
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.protocols import LatentHParams
from dioscuri.plans.noise import NoiseSpec
from jax_impl.families.methods import FamilyMethods, Result, Scalars
from jax_impl.layers.latents import standard_deviation
from jax_impl.layers.pictures import normalise
from jax_impl.objectives.elbo import elbo_terms, latent_kl, log_ratios, training_loss
from jax_impl.objectives.likelihoods import output_statistics
from jax_impl.objectives.masking import drop_condition
from jax_impl.samplers.ancestral import guided_layer, read_output
from jax_impl.trainer import Trainer, TrainState

Arrays = Mapping[str, Array]
Terms = tuple[Array, Array]
Masks = Sequence[Array] | None


class LatentGroupMethods(FamilyMethods):
    """Base of the families with a hierarchy of latents."""

    def __init__(self, hparams: LatentHParams, plan: LatentPlan) -> None:
        self.hparams, self.plan = hparams, plan
        self.weight_decay = hparams.loss.l2_weight if hparams.loss.use_weight_decay else 0.0
        self.switches = ("gamma",)
        self.metric_sizes = {"loss": 0, "reconstruction": 0, "kl": len(plan.groups)}

    def noise_specs(
        self,
        method: str,
        batch: int,
        output: str = "mean",
        masked: bool = False,
        with_prior: bool = False,
    ) -> tuple[NoiseSpec, ...]:
        """Noise of a method for a batch of this size."""
        prior = masked or method in ("reconstruct", "encode", "generate", "decode")
        posterior = method not in ("generate", "decode")
        pixels = self.plan.output_noise(batch) if output == "sample" else ()
        drops = method == "train_step" and self.plan.num_classes and self.hparams.loss.cond_dropout_prob
        drop = (NoiseSpec("drop", "uniform", (batch,)),) if drops else ()
        return self.plan.latent_noise(batch, prior=prior, posterior=posterior) + pixels + drop

    def loss(
        self, model: Any, batch: Arrays, noise: Arrays, scalars: Scalars, buffers: Arrays, frozen: Arrays
    ) -> tuple[Array, Result, Result]:
        """The training loss of the bound, with the groups balanced by the KL of this batch, and its terms."""
        terms = self._bound(model, batch, noise)[0]
        return *training_loss(terms, self.plan, self.hparams, scalars), {}

    def train_step(
        self,
        trainer: Trainer,
        state: TrainState,
        batch: Arrays,
        noise: Arrays,
        scalars: Scalars,
        frozen: Arrays,
    ) -> tuple[TrainState, Result, Array]:
        """The plain step, with the groups balanced by the KL of the global batch."""
        balance = None
        if scalars["gamma"] and trainer.accumulation_steps > 1:
            # In a separate pass: the loss of every micro-batch needs the mean over all.
            balance = trainer.mean(self._mean_kl, state, batch, noise)["kl"]

        def objective(model: Any, batch: Arrays, noise: Arrays) -> tuple[Array, Result, Result]:
            terms = self._bound(model, batch, noise)[0]
            statistics = balance
            if scalars["gamma"] and statistics is None:
                statistics = trainer.over_processes(terms[1].mean(0))
            return *training_loss(terms, self.plan, self.hparams, scalars, statistics), {}

        gradient, metrics, _ = trainer.gradient(objective, state, batch, noise)
        state, norm = trainer.update(state, gradient, scalars)
        return state, metrics, norm

    def evaluate(
        self,
        model: Any,
        batch: Arrays,
        noise: Arrays,
        frozen: Arrays,
        masked: bool = False,
        masks: Masks = None,
    ) -> dict[str, Array]:
        """`reconstruction` (B,), `kl` (B, L) and `log_ratio` (B, L). With `masks` (and then `masked`),
        variates from the prior are left out of the latter two."""
        assert masked is (masks is not None)
        (reconstruction, kl), _, aux = self._bound(model, batch, noise, masks)
        log_ratio = log_ratios(aux, self.plan, self.hparams, masks)
        return {"reconstruction": reconstruction, "kl": kl, "log_ratio": log_ratio}

    def reconstruct(
        self,
        model: Any,
        batch: Arrays,
        noise: Arrays,
        frozen: Arrays,
        output: str,
        masks: Masks = None,
        output_temperature: Array | float = 1.0,
    ) -> dict[str, Array]:
        """`image` (B, h, w, C), `reconstruction` (B,) and `kl` (B, L)."""
        (reconstruction, kl), layer, _ = self._bound(model, batch, noise, masks)
        image = read_output(layer, noise, self.plan, self.hparams, output, output_temperature)
        return {"image": image, "reconstruction": reconstruction, "kl": kl}

    def generate(
        self,
        model: Any,
        batch: Arrays,
        noise: Arrays,
        frozen: Arrays,
        temperatures: Array,
        output: str,
        output_temperature: Array | float = 1.0,
        guidance_scale: Array | float | None = None,
    ) -> dict[str, Array]:
        """`image` (B, h, w, C) from the prior, of the classes `label` if the model has any, and guided by
        `guidance_scale`."""
        condition = self._condition(batch, noise)
        if guidance_scale is None:
            layer, _ = model.generate(noise, temperatures, **condition)
        else:
            none = jnp.full_like(condition["label"], self.plan.num_classes)
            layer = guided_layer(model, noise, temperatures, (condition["label"], none), guidance_scale)
        return {"image": read_output(layer, noise, self.plan, self.hparams, output, output_temperature)}

    def encode(
        self,
        model: Any,
        batch: Arrays,
        noise: Arrays,
        frozen: Arrays,
        masks: Masks = None,
        with_prior: bool = False,
    ) -> dict[str, Array]:
        """`mean.<l>`, `std.<l>` of the posterior and `z.<l>`; `with_prior` also `prior_mean.<l>` and
        `prior_std.<l>`, given the coarser latents."""
        aux = self._bound(model, batch, noise, masks)[2]
        arrays: dict[str, Array] = {}
        for group in range(len(self.plan.groups)):
            arrays[f"mean.{group}"] = aux[f"posterior_mean.{group}"]
            arrays[f"std.{group}"] = standard_deviation(aux[f"posterior_scale.{group}"], self.hparams.model)
            arrays[f"z.{group}"] = aux[f"z.{group}"]
            if with_prior:
                scale = aux[f"prior_scale.{group}"]
                arrays[f"prior_mean.{group}"] = aux[f"prior_mean.{group}"]
                arrays[f"prior_std.{group}"] = standard_deviation(scale, self.hparams.model)
        return arrays

    def decode(
        self,
        model: Any,
        batch: Arrays,
        noise: Arrays,
        frozen: Arrays,
        temperatures: Array,
        output: str,
        masks: Masks = None,
        output_temperature: Array | float = 1.0,
    ) -> dict[str, Array]:
        """`image` (B, h, w, C) from the latents `z.<l>` of the batch."""
        condition = self._condition(batch, noise)
        layer, _ = model.generate(noise, temperatures, batch, masks, **condition)
        return {"image": read_output(layer, noise, self.plan, self.hparams, output, output_temperature)}

    def divergence_statistics(
        self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays
    ) -> dict[str, Array]:
        """`kl.<l>` (B, Z), averaged over the latent grid."""
        aux = self._bound(model, batch, noise)[2]
        return {
            f"kl.{group}": latent_kl(aux, group, self.hparams).mean(tuple(range(1, 1 + len(block.grid))))
            for group, block in enumerate(self.plan.groups)
        }

    def output_statistics(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`means` and `log_scales` of the mixture's components, or the Bernoulli `logits`."""
        layer = self._bound(model, batch, noise)[1]
        return output_statistics(layer, self.plan, self.hparams)

    def _mean_kl(self, model: Any, batch: Arrays, noise: Arrays) -> Result:
        """`kl` (L,), the mean over the batch."""
        return {"kl": self._bound(model, batch, noise)[0][1].mean(0)}

    def _bound(
        self, model: Any, batch: Arrays, noise: Arrays, masks: Masks = None
    ) -> tuple[Terms, Array, Arrays]:
        """Terms of the bound, output layer and intermediates for a batch of pictures."""
        x = normalise(batch["image"], self.plan, self.hparams, noise["posterior.0"].dtype)
        layer, aux = model(x, noise, masks, **self._condition(batch, noise))
        return elbo_terms(layer, aux, x, self.plan, self.hparams, masks), layer, aux

    def _condition(self, batch: Arrays, noise: Arrays) -> Result:
        """`label` (B,) if the model and the batch have classes; in training some are dropped."""
        if not self.plan.num_classes or "label" not in batch:
            return {}
        condition = {"label": batch["label"]}
        if "drop" not in noise:
            return condition
        none = {"label": jnp.full_like(batch["label"], self.plan.num_classes)}
        return drop_condition(condition, none, noise["drop"], self.hparams.loss.cond_dropout_prob)
