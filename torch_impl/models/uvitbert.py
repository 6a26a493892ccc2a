"""`UViTBert` of TiTok (Yu et al. 2024, section 3.4): a transformer with skip connections (U-ViT, Bao et al.
2023) on a class token and a picture's 1-D tokens. See `token_transformer.py` for the calling convention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import attend, split_heads
from torch_impl.layers.dense import Logits
from torch_impl.layers.named import Tensors
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.stack import apply_layers, call
from torch_impl.models.token_transformer import (
    TokenTransformer,
    self_condition_layer,
    self_conditioned,
    with_class_token,
)


class UViTBert(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every block in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        C, n = plan.options.hidden_size, plan.options.num_hidden_layers // 2
        self.embeddings = nn.Embedding(plan.vocab_size, C)
        self.pos_embed = nn.Embedding(plan.positions, C)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.in_blocks: Any = nn.ModuleList(UViTBertBlock(plan) for _ in range(n))
        self.mid_block = UViTBertBlock(plan)
        self.out_blocks: Any = nn.ModuleList(UViTBertBlock(plan, skip=True) for _ in range(n))
        self.norm = nn.LayerNorm(C, plan.eps)
        self.lm_head = Logits(C, plan.outputs)
        self.plan, self.checkpoint = plan, checkpoint

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """The condition itself: there is nothing to precompute."""
        return dict(condition)

    def hidden(
        self,
        ids: Tensor,
        condition: Tensors,
        noise: Tensors | None = None,  # noqa: ARG002 - no dropout
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Normed states (B, L, C), with the class token.

        Intermediates besides `embed`: `hs_embed` and, of every block in order, `hs_layer<i>`, with the class
        token.
        """
        plan, n = self.plan, len(self.in_blocks)
        x = self.embeddings(with_class_token(ids, condition, plan)) + rearrange(
            self.pos_embed.weight, "l c -> 1 l c"
        )
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux = {"hs_embed": x}
        x, skips = apply_layers(self.in_blocks, x, (), [()] * n, checkpoint=self.checkpoint)
        x, middle = call(self.mid_block, x, checkpoint=self.checkpoint)
        arguments = [(skip,) for skip in reversed(skips)]
        x, outputs = apply_layers(self.out_blocks, x, (), arguments, checkpoint=self.checkpoint)
        aux |= {f"hs_layer{i}": value for i, value in enumerate([*skips, middle, *outputs])}
        x = self.norm(x)
        return x, {**aux, "embed": x[:, int(plan.class_token) :]}

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.lm_head(x, outputs))


class UViTBertBlock(nn.Module):
    """x + attention(norm x), x + feed-forward(norm x); with `skip`, first a dense layer on x and the output
    of an earlier block: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan, *, skip: bool = False) -> None:
        super().__init__()
        C = plan.options.hidden_size
        self.norm1 = nn.LayerNorm(C, plan.eps)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(C, 3 * C, bias=False), "proj": nn.Linear(C, C)})
        self.norm2 = nn.LayerNorm(C, plan.eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(C, plan.inner), "fc2": nn.Linear(plan.inner, C)})
        self.skip_linear = nn.Linear(2 * C, C) if skip else None
        self.heads = plan.options.num_attention_heads

    def forward(self, x: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-> (x, x)."""
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], -1))
        q, k, v = (split_heads(y, self.heads) for y in self.attn["qkv"](self.norm1(x)).chunk(3, -1))
        x = x + self.attn["proj"](attend(q, k, v))
        x = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x, x
