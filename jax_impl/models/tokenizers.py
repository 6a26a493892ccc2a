"""The network of a tokenizer's plan."""

from dioscuri.families.vqgan.plan import TokenizerPlan
from jax_impl.models.one_d_tokenizer import OneDTokenizer
from jax_impl.models.vqgan import Tokenizer


def build_tokenizer(plan: TokenizerPlan, checkpoint: bool = False) -> Tokenizer:
    """The tokenizer of a plan. `checkpoint` recomputes blocks in the backward pass to save memory."""
    return (Tokenizer if plan.one_d is None else OneDTokenizer)(plan, checkpoint)
