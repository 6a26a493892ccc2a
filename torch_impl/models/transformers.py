"""The masked token transformer of a plan. See `torch_impl/models/maskgit.py` for the calling convention."""

from typing import Any

from torch import nn

from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.transformers import critic_plan
from torch_impl.models.critic import SelfCritic
from torch_impl.models.google_maskgit import GoogleTransformer
from torch_impl.models.halton import HaltonTransformer
from torch_impl.models.imagebert import ImageBert
from torch_impl.models.lucidrains import LucidrainsTransformer
from torch_impl.models.maskbit import Bert, LFQBert
from torch_impl.models.maskgen import MaskGen
from torch_impl.models.maskgit import MaskGitTransformer
from torch_impl.models.meissonic import MeissonicTransformer
from torch_impl.models.uvit import MaskGiTUViT
from torch_impl.models.uvitbert import UViTBert

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


def build_transformer(plan: TransformerPlan, *, checkpoint: bool = False) -> nn.Module:
    """The network, with its critic, if any, as `critic`; parameters are uninitialised."""
    model: Any = MODELS[plan.options.architecture](plan, checkpoint=checkpoint)
    if plan.options.critic == "token":
        model.critic = build_transformer(critic_plan(plan), checkpoint=checkpoint)
    elif plan.options.critic == "self":
        model.critic = SelfCritic(plan)
    return model
