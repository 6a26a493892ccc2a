"""The networks of MaskBit (Weber et al. 2024, section 3.3), which predict groups of a token's bits.

See `token_transformer.py` for the calling convention. Here ids (B, L) are groups, those of a token one after
the other, each with `plan.codebook_size` values, and logits are those of a group: no softmax is over all
codes of the tokenizer. LFQBert reads the bits themselves, Bert embeddings of groups. Both are BERTs (Devlin
et al. 2019) with the class as the last token of the sequence.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import Attention
from torch_impl.layers.bits import signs
from torch_impl.layers.dropout import Dropout
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.stack import apply_layers
from torch_impl.models.token_transformer import TokenTransformer


class GroupTransformer(TokenTransformer):
    """The layers of both networks, which compute in their parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        options, C = plan.options, plan.options.hidden_size
        self.class_emb = nn.Embedding(options.num_classes + 1, C)
        self.pos_emb = nn.Embedding(plan.positions, C)
        self.first_norm = nn.LayerNorm(C, plan.eps)
        self.dropout = Dropout(options.hidden_dropout)
        self.layers = nn.ModuleList(GroupLayer(plan) for _ in range(options.num_hidden_layers))
        self.norm_after_transformer = nn.LayerNorm(C, plan.eps) if options.use_prenorm else None
        self.last_dense = nn.Linear(C, C)
        self.last_norm = nn.LayerNorm(C, plan.eps)
        self.plan, self.checkpoint = plan, checkpoint

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """The condition itself: there is nothing to precompute."""
        return dict(condition)

    def hidden(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, L, K) of all groups: since a token's groups share its state, there are no rows of groups
        before.

        Intermediates besides `embed`, the states (B, N, C) of the tokens: `hs_embed` and `hs_layer<i>`, with
        the class token.
        """
        plan, uniforms = self.plan, under(noise, "dropout")
        groups = rearrange(ids, "b (n m) -> b n m", m=plan.splits)
        label = condition.get("label", torch.full_like(ids[:, 0], plan.null_label))
        last = rearrange(self.class_emb(label.clamp(max=plan.null_label)), "b c -> b 1 c")
        positions = rearrange(self.pos_emb.weight, "l c -> 1 l c")
        x = torch.cat([self.embed(groups), last], 1) + positions
        x = self.dropout(self.first_norm(x), uniforms.get("embed"))
        aux = {"hs_embed": x}
        arguments = [(under(uniforms, f"layers.{i}"),) for i in range(len(self.layers))]
        x, outputs = apply_layers(self.layers, x, (), arguments, checkpoint=self.checkpoint)
        aux |= {f"hs_layer{i}": value for i, value in enumerate(outputs)}
        x = x if self.norm_after_transformer is None else self.norm_after_transformer(x)
        x = x[:, :-1]
        scores = self.scores(self.last_norm(F.gelu(self.last_dense(x))))
        return rearrange(scores, "b n m k -> b (n m) k"), {**aux, "embed": x}

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """The first `outputs` of these logits, in at least float32."""
        return at_least_float32(x[..., :outputs])

    def embed(self, groups: Tensor) -> Tensor:
        """Groups (B, N, M) -> (B, N, C)."""
        raise NotImplementedError

    def scores(self, x: Tensor) -> Tensor:
        """Rows (B, N, C) -> logits (B, N, M, K)."""
        raise NotImplementedError


class LFQBert(GroupTransformer):
    """Tokens are their bits, -1 and 1, or 0 where a group is masked."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint)
        C = plan.options.hidden_size
        self.input_proj = nn.Linear(plan.splits * plan.group_bits, C)
        self.prediction_layer = nn.Linear(C, plan.splits * plan.codebook_size)

    def embed(self, groups: Tensor) -> Tensor:
        """Groups (B, N, M) -> (B, N, C)."""
        bits = signs(groups, self.plan.group_bits, self.input_proj.weight.dtype)
        return self.input_proj(rearrange(bits, "b n m e -> b n (m e)"))

    def scores(self, x: Tensor) -> Tensor:
        """Rows (B, N, C) -> logits (B, N, M, K)."""
        return rearrange(self.prediction_layer(x), "b n (m k) -> b n m k", m=self.plan.splits)


class Bert(GroupTransformer):
    """Tokens are sums of embeddings of their groups; logits are products with the embeddings."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint)
        C, K = plan.options.hidden_size, plan.codebook_size
        self.tok_emb_list = nn.ModuleList(nn.Embedding(plan.vocab_size, C) for _ in range(plan.splits))
        self.bias = nn.ParameterList(torch.zeros(plan.picture_tokens, K) for _ in range(plan.splits))

    def embed(self, groups: Tensor) -> Tensor:
        """Groups (B, N, M) -> (B, N, C)."""
        return torch.stack([table(groups[..., i]) for i, table in enumerate(self.tok_emb_list)]).sum(0)

    def scores(self, x: Tensor) -> Tensor:
        """Rows (B, N, C) -> logits (B, N, M, K)."""
        K = self.plan.codebook_size
        scores = [
            F.linear(x, table.get_parameter("weight")[:K]) + bias
            for table, bias in zip(self.tok_emb_list, self.bias, strict=True)
        ]
        return torch.stack(scores, 2)


class GroupLayer(nn.Module):
    """LN(x + attention), LN(x + feed-forward); with `use_prenorm`, norms of the branches' inputs instead."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        options, C = plan.options, plan.options.hidden_size
        rate = options.attention_dropout
        self.attention = Attention(C, options.num_attention_heads, bias=True, rate=rate)
        self.attention_norm = nn.LayerNorm(C, plan.eps)
        self.intermediate = nn.Linear(C, plan.inner)
        self.output = nn.Linear(plan.inner, C)
        self.ffn_norm = nn.LayerNorm(C, plan.eps)
        self.dropout = Dropout(options.hidden_dropout)
        self.prenorm = options.use_prenorm

    def forward(self, x: Tensor, noise: Tensors) -> tuple[Tensor, Tensor]:
        """x (B, L, C) -> (x, x)."""
        if self.prenorm:
            x = x + self._attend(self.attention_norm(x), noise)
            x = x + self._feed_forward(self.ffn_norm(x), noise)
        else:
            x = self.attention_norm(x + self._attend(x, noise))
            x = self.ffn_norm(x + self._feed_forward(x, noise))
        return x, x

    def _attend(self, x: Tensor, noise: Tensors) -> Tensor:
        y = self.attention(x, noise=noise.get("attention"))
        return self.dropout(y, noise.get("attention_output"))

    def _feed_forward(self, x: Tensor, noise: Tensors) -> Tensor:
        return self.dropout(self.output(F.gelu(self.intermediate(x))), noise.get("ffn"))
