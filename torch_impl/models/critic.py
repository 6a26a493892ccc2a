"""Token critics (Lezama et al. 2022, section 3): which tokens of a sample are wrong."""

from typing import Any

from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.named import Tensors
from torch_impl.layers.precision import at_least_float32


class SelfCritic(nn.Module):
    """One logit for each row of the network's embedding: (B, L, C) -> (B, L)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        self.to_pred = nn.Linear(plan.options.hidden_size, 1)

    def forward(self, embed: Tensor) -> Tensor:
        return at_least_float32(self.to_pred(embed)).squeeze(-1)


def critic_logits(model: Any, ids: Tensor, condition: Tensors, noise: Tensors | None = None) -> Tensor:
    """The critic's logits (B, L) for each token of ids (B, L), high for wrong tokens.

    A token critic takes a condition that `model.critic.prepare` prepared, a self critic one that the model
    prepared. `noise` is for dropout in the network that reads the ids.
    """
    if isinstance(model.critic, SelfCritic):
        return model.critic(model(ids, condition, noise)[1]["embed"])
    return model.critic(ids, condition, noise)[0].squeeze(-1)
