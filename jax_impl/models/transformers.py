"""The masked token transformer of a plan. See `jax_impl/models/maskgit.py` for the calling convention."""

from typing import Any

from flax import nnx

from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.transformers import critic_plan
from jax_impl.models.critic import SelfCritic
from jax_impl.models.google_maskgit import GoogleTransformer
from jax_impl.models.halton import HaltonTransformer
from jax_impl.models.imagebert import ImageBert
from jax_impl.models.lucidrains import LucidrainsTransformer
from jax_impl.models.maskbit import Bert, LFQBert
from jax_impl.models.maskgen import MaskGen
from jax_impl.models.maskgit import MaskGitTransformer
from jax_impl.models.meissonic import MeissonicTransformer
from jax_impl.models.uvit import MaskGiTUViT
from jax_impl.models.uvitbert import UViTBert

MODELS = {
    "maskgit": MaskGitTransformer,
    "uvit": MaskGiTUViT,
    "google": GoogleTransformer,
    "halton": HaltonTransformer,
    "lucidrains": LucidrainsTransformer,
    "imagebert": ImageBert,
    "uvitbert": UViTBert,
    "maskgen": MaskGen,
    "lfqbert": LFQBert,
    "bert": Bert,
    "meissonic": MeissonicTransformer,
}


def build_transformer(plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> nnx.Module:
    """The network, with its critic, if any, as `critic`; parameters are uninitialised."""
    model: Any = MODELS[plan.options.architecture](plan, checkpoint=checkpoint, scan=scan)
    if plan.options.critic == "token":
        model.critic = build_transformer(critic_plan(plan), checkpoint=checkpoint, scan=scan)
    elif plan.options.critic == "self":
        model.critic = SelfCritic(plan)
    return model
