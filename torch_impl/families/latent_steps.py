"""A pass through a hierarchy of latents in steps, for lossless compression.

A decoder has no picture yet, but must compute the same bits as the encoder. So what reads pictures and what
does not are separate modes, and both sides run the same ones on the same arrays. Between the steps arrays are
on the host, NHWC, in at least float32: to widen bfloat16 and to narrow it again changes nothing.
"""
# ruff: noqa: ARG002 - the arguments are the engine's

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dioscuri.families.latent_models.plan import LatentPlan
from torch_impl.layers.latents import Context, Gaussian, class_condition, standard_deviation
from torch_impl.layers.pictures import normalise
from torch_impl.layers.precision import at_least_float32, weights_dtype
from torch_impl.objectives.likelihoods import mixture_parameters, output_statistics

Tensors = Mapping[str, Tensor]
STATE = "state."
"""Name of features behind a group's block, before the name of their slot."""


class LatentSteps:
    """Modes of one step each. None takes noise."""

    hparams: Any
    plan: LatentPlan

    def activations(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`activation.<l>`: what the posterior of group l reads of pictures `image`."""
        dtype = torch.promote_types(weights_dtype(model.top_down.output_conv), torch.float32)
        levels = model.activations(normalise(batch["image"], self.plan, self.hparams, dtype))
        return {f"activation.{group}": _for_host(level) for group, level in enumerate(levels)}

    def group_prior(
        self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors, group: int
    ) -> dict[str, Tensor]:
        """`x` and `features`, the block's context, and the prior's `mean`, `scale` and `std`, from the states
        behind the blocks before, of no class. The first group's batch holds any rows."""
        states = _states(model, batch)
        top_down, B = model.top_down, len(next(iter(batch.values())))
        condition = class_condition(top_down.class_emb, None, B)
        x = top_down.features_before(group, states, B)
        context, prior = top_down.blocks[group].read_prior(x, condition)
        return {name: _for_host(value) for name, value in context._asdict().items()} | self._gaussian(prior)

    def group_posterior(
        self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors, group: int
    ) -> dict[str, Tensor]:
        """The posterior's `mean`, `scale` and `std`, from `activation` and what `group_prior` gave."""
        prior = Gaussian(_placed(batch["mean"]), _placed(batch["scale"]))
        activation = _features(model, batch["activation"])
        block = model.top_down.blocks[group]
        return self._gaussian(block.read_posterior(_context(model, batch), activation, prior))

    def group_state(
        self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors, group: int
    ) -> dict[str, Tensor]:
        """`state.<slot>` behind the block, from its context and latents `z`."""
        x = model.top_down.blocks[group].add_latents(_context(model, batch), _placed(batch["z"]))
        return {f"{STATE}{model.top_down.slot(group)}": _for_host(x)}

    def likelihood(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """Parameters of the levels' distribution, padding left out: Bernoulli `logits` (B, h, w, C), or a
        mixture's `logits` (B, h, w, M) and, each (B, h, w, C, M), `means`, `inverse_scales` and, where
        channels are coupled, `coefficients`."""
        layer = model.top_down.read_output(_states(model, batch))
        if self.plan.likelihood == "bernoulli":
            return output_statistics(layer, self.plan, self.hparams)
        given = mixture_parameters(layer, self.plan, self.hparams)._asdict()
        return {name: value for name, value in given.items() if name != "log_scales" and value is not None}

    def _gaussian(self, gaussian: Gaussian) -> dict[str, Tensor]:
        std = standard_deviation(gaussian.scale, self.hparams.model)
        arrays = {"mean": gaussian.mean, "scale": gaussian.scale, "std": std}
        return {name: _for_host(value) for name, value in arrays.items()}


def _states(model: Any, batch: Tensors) -> dict[int, Tensor]:
    return {
        int(name.removeprefix(STATE)): _features(model, value)
        for name, value in batch.items()
        if name.startswith(STATE)
    }


def _context(model: Any, batch: Tensors) -> Context:
    return Context(_features(model, batch["x"]), _features(model, batch["features"]))


def _features(model: Any, x: Tensor) -> Tensor:
    """Features in the precision of the network."""
    return _placed(x).to(weights_dtype(model.top_down.output_conv))


def _placed(x: Tensor) -> Tensor:
    """(B, ..., C) -> (B, C, ...), in memory of PyTorch: some kernels round by how memory is aligned."""
    return x.movedim(-1, 1).clone()


def _for_host(x: Tensor) -> Tensor:
    """As `_placed` takes it."""
    return at_least_float32(x).movedim(1, -1)
