"""Token critics (Lezama et al. 2022, section 3): which tokens of a sample are wrong."""

from typing import Any

from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.dense import Linear
from jax_impl.layers.named import Arrays
from jax_impl.layers.precision import at_least_float32


class SelfCritic(nnx.Module):
    """One logit for each row of the network's embedding: (B, L, C) -> (B, L)."""

    def __init__(self, plan: TransformerPlan) -> None:
        self.to_pred = Linear(plan.options.hidden_size, 1)

    def __call__(self, embed: Array) -> Array:
        return at_least_float32(self.to_pred(embed)).squeeze(-1)


def critic_logits(model: Any, ids: Array, condition: Arrays, noise: Arrays | None = None) -> Array:
    """The critic's logits (B, L) for each token of ids (B, L), high for wrong tokens.

    A token critic takes a condition that `model.critic.prepare` prepared, a self critic one that the model
    prepared. `noise` is for dropout in the network that reads the ids.
    """
    if isinstance(model.critic, SelfCritic):
        return model.critic(model(ids, condition, noise)[1]["embed"])
    return model.critic(ids, condition, noise)[0].squeeze(-1)
