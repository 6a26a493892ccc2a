"""A pass through a hierarchy of latents in steps, for lossless compression.

A decoder has no picture yet, but must compute the same bits as the encoder. So what reads pictures and what
does not are separate modes, and both sides run the same ones on the same arrays. Between the steps arrays are
NHWC, in at least float32: to widen bfloat16 and to narrow it again changes nothing.
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

    def first_prior(self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays) -> dict[str, Array]:
        """What a block knows before it has latents, for the first group: its context, `x` and `features`, and
        its prior's `mean`, `scale` and `std`, of no class. The batch holds any rows."""
        return self._prior(model, {}, 0, len(next(iter(batch.values()))))

    def group_posterior(
        self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays, group: int
    ) -> dict[str, Array]:
        """The posterior's `mean`, `scale` and `std`, from `activation` and what is known before."""
        prior = Gaussian(_placed(batch["mean"]), _placed(batch["scale"]))
        activation = _features(model, batch["activation"])
        block = model.top_down.blocks[group]
        return self._gaussian(block.read_posterior(_context(model, batch), activation, prior))

    def next_prior(
        self, model: Any, batch: Arrays, noise: Arrays, frozen: Arrays, group: int
    ) -> dict[str, Array]:
        """`state.<slot>` behind a group's block, from context, latents `z` and the states before, and what
        follows: of the next group the same as `first_prior`, behind the last one the parameters of the
        levels' distribution."""
        z, slot, following = _placed(batch["z"]), model.top_down.slot(group), group + 1
        x = model.top_down.blocks[group].add_latents(_context(model, batch), z)
        states = _states(model, batch) | {slot: x}
        if following < len(self.plan.groups):
            follows = self._prior(model, states, following, len(z))
        else:
            follows = self._levels(model, states)
        return {f"{STATE}{slot}": _for_host(x), **follows}

    def _prior(self, model: Any, states: Mapping[int, Array], group: int, B: int) -> dict[str, Array]:
        top_down = model.top_down
        condition = class_condition(top_down.class_emb, None, B)
        x = top_down.features_before(group, states, B)
        context, prior = top_down.blocks[group].read_prior(x, condition)
        return {name: _for_host(value) for name, value in context._asdict().items()} | self._gaussian(prior)

    def _levels(self, model: Any, states: Mapping[int, Array]) -> dict[str, Array]:
        """Parameters of the levels' distribution, padding left out: Bernoulli `logits` (B, h, w, C), or a
        mixture's `logits` (B, h, w, M) and, each (B, h, w, C, M), `means`, `inverse_scales` and, where
        channels are coupled, `coefficients`."""
        layer = model.top_down.read_output(states)
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
