"""A pass through a hierarchy of latents in steps, for lossless compression.

A decoder has no picture yet, but must compute the same bits as the encoder. So what reads pictures and what
does not are separate modes, and both sides run the same ones on the same arrays. Between the steps arrays are
on the host, NHWC, in at least float32: to widen bfloat16 and to narrow it again changes nothing.
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from dioscuri.families.latent_models.plan import LatentPlan
from jax_impl.layers.latents import Context, Gaussian, class_condition, standard_deviation
from jax_impl.layers.pictures import normalise
from jax_impl.layers.precision import at_least_float32, weights_dtype
from jax_impl.objectives.likelihoods import mixture_parameters, output_statistics

Arrays = Mapping[str, Array]
STATE = "state."
"""Name of features behind a group's block, before the name of their slot."""


class LatentSteps:
    """Modes of one step each. None takes noise."""

    hparams: Any
    plan: LatentPlan

    def activations(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """`activation.<l>`: what the posterior of group l reads of pictures `image`."""
        dtype = jnp.promote_types(weights_dtype(model.top_down.output_conv), jnp.float32)
        levels = model.activations(normalise(batch["image"], self.plan, self.hparams, dtype))
        return {f"activation.{group}": _for_host(level) for group, level in enumerate(levels)}

    def group_prior(
        self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays, group: int
    ) -> dict[str, Array]:
        """`x` and `features`, the block's context, and the prior's `mean`, `scale` and `std`, from the states
        behind the blocks before, of no class. The first group's batch holds any rows."""
        states = _states(model, batch)
        top_down, B = model.top_down, len(next(iter(batch.values())))
        condition = class_condition(top_down.class_emb, None, B)
        x = top_down.features_before(group, states, B)
        context, prior = top_down.blocks[group].read_prior(x, condition)
        return {name: _for_host(value) for name, value in context._asdict().items()} | self._gaussian(prior)

    def group_posterior(
        self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays, group: int
    ) -> dict[str, Array]:
        """The posterior's `mean`, `scale` and `std`, from `activation` and what `group_prior` gave."""
        prior = Gaussian(_placed(batch["mean"]), _placed(batch["scale"]))
        activation = _features(model, batch["activation"])
        block = model.top_down.blocks[group]
        return self._gaussian(block.read_posterior(_context(model, batch), activation, prior))

    def group_state(
        self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays, group: int
    ) -> dict[str, Array]:
        """`state.<slot>` behind the block, from its context and latents `z`."""
        x = model.top_down.blocks[group].add_latents(_context(model, batch), _placed(batch["z"]))
        return {f"{STATE}{model.top_down.slot(group)}": _for_host(x)}

    def likelihood(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """Parameters of the levels' distribution, padding left out: Bernoulli `logits` (B, h, w, C), or a
        mixture's `logits` (B, h, w, M) and, each (B, h, w, C, M), `means`, `inverse_scales` and, where
        channels are coupled, `coefficients`."""
        layer = model.top_down.read_output(_states(model, batch))
        if self.plan.likelihood == "bernoulli":
            return output_statistics(layer, self.plan, self.hparams)
        given = mixture_parameters(layer, self.plan, self.hparams)._asdict()
        return {name: value for name, value in given.items() if name != "log_scales" and value is not None}

    def _gaussian(self, gaussian: Gaussian) -> dict[str, Array]:
        std = standard_deviation(gaussian.scale, self.hparams.model)
        arrays = {"mean": gaussian.mean, "scale": gaussian.scale, "std": std}
        return {name: _for_host(value) for name, value in arrays.items()}


def _states(model: Any, batch: Arrays) -> dict[int, Array]:
    return {
        int(name.removeprefix(STATE)): _features(model, value)
        for name, value in batch.items()
        if name.startswith(STATE)
    }


def _context(model: Any, batch: Arrays) -> Context:
    return Context(_features(model, batch["x"]), _features(model, batch["features"]))


def _features(model: Any, x: Array) -> Array:
    """Features in the precision of the network."""
    return _placed(x).astype(weights_dtype(model.top_down.output_conv))


def _placed(x: Array) -> Array:
    """Arrays are NHWC inside, too."""
    return x


def _for_host(x: Array) -> Array:
    """As `_placed` takes it."""
    return at_least_float32(x)
