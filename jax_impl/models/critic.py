"""Token critics (Lezama et al. 2022, section 3): which tokens of a sample are wrong."""

from typing import Any

from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.dense import Linear
from jax_impl.layers.named import Arrays
from jax_impl.layers.precision import at_least_float32


class SelfCritic(nnx.Module):
    """One logit for each row of the network's own embedding: (B, L, C) -> (B, L)."""

    def __init__(self, plan: TransformerPlan) -> None:
        self.to_pred = Linear(plan.options.hidden_size, 1)

    def __call__(self, embed: Array) -> Array:
        return at_least_float32(self.to_pred(embed)).squeeze(-1)


def critic_logits(model: Any, ids: Array, condition: Arrays, noise: Arrays | None = None) -> Array:
    """The critic's logits (B, L) for each token of ids (B, L), high for wrong tokens.

    A token critic takes a condition of its own (`model.critic.prepare`), not one that the model prepared, a
    self critic one of the model's. `noise` is the dropout's of the network that reads the ids.
    """
    if isinstance(model.critic, SelfCritic):
        return model.critic(model(ids, condition, noise)[1]["embed"])
    return model.critic(ids, condition, noise)[0].squeeze(-1)
