"""`Transformer` of muse-maskgit-pytorch (MUSE, Chang et al. 2023): cosine attention with a learned null
token, cross-attention to text in every layer, GEGLU. See `maskgit.py` for the calling convention.

Text tokens that are entirely zero are ignored; without text, cross-attention sees only the null token.
`condition` may also hold `low_res` (B, S), ids of a smaller picture, whose embeddings are added to the text.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import attend, split_heads
from torch_impl.layers.dense import Logits
from torch_impl.layers.dropout import Dropout
from torch_impl.layers.feed_forward import GEGLU
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.norms import GammaLayerNorm, unit
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.stack import apply_layers
from torch_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
)

SCALE = 8
"""Scale of the cosines between queries and keys."""


class LucidrainsTransformer(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        options, C, E = plan.options, plan.options.hidden_size, plan.options.encoder_hidden_size
        self.token_emb = nn.Embedding(plan.vocab_size, C)
        self.pos_emb = nn.Embedding(plan.positions, C)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.transformer_blocks: Any = nn.ModuleDict(
            {
                "layers": nn.ModuleList(LucidrainsLayer(plan) for _ in range(options.num_hidden_layers)),
                "norm": GammaLayerNorm(C, plan.eps),
            }
        )
        self.text_embed_proj = nn.Linear(E, C, bias=False) if E != C else None
        self.to_logits = Logits(C, plan.outputs, bias=False)
        self.plan, self.checkpoint = plan, checkpoint

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """Every layer's keys and values of the text, null token first, and their mask; empty without text,
        which gives the batch size."""
        if is_prepared(condition) or "text" not in condition:
            return dict(condition)
        context, mask = self._context(condition)
        prepared = {**condition, "prepared.mask": F.pad(mask, (1, 0), value=True)}
        for i, layer in enumerate(self.transformer_blocks["layers"]):
            states = layer["1"].prepare(context)
            prepared |= {f"prepared.layers.{i}.{name}": value for name, value in states.items()}
        return prepared

    def hidden(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Normed states (B, L, C) of codes.

        Intermediates besides `embed`: `hs_embed` and `hs_layer<i>`.
        """
        uniforms, blocks = under(noise, "dropout.transformer_blocks"), self.transformer_blocks
        x = self.token_emb(ids) + rearrange(self.pos_emb.weight[: ids.shape[1]], "l c -> 1 l c")
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, self.plan)
        empty = x.new_zeros(len(x), 0, self.plan.options.encoder_hidden_size)
        states = under(self.prepare({"text": empty, **condition}), "prepared")
        aux = {"hs_embed": x}
        names = [f"layers.{i}" for i in range(len(blocks["layers"]))]
        per_layer = [(under(states, name), under(uniforms, name)) for name in names]
        x, intermediates = apply_layers(
            blocks["layers"], x, (states["mask"],), per_layer, checkpoint=self.checkpoint
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(intermediates)}
        x = blocks["norm"](x)
        return x, {**aux, "embed": x}

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.to_logits(x, outputs))

    def _context(self, condition: Tensors) -> tuple[Tensor, Tensor]:
        """States (B, S, C) of text and smaller picture, and which are real (B, S)."""
        text = condition["text"]
        mask = (text != 0).any(-1)
        mask = mask & condition["text_mask"] if "text_mask" in condition else mask
        if "text_keep" in condition:
            mask = mask & rearrange(condition["text_keep"].bool(), "b -> b 1")
        text = text.to(self.token_emb.weight.dtype)
        context = text if self.text_embed_proj is None else self.text_embed_proj(text)
        if "low_res" not in condition:
            return context, mask
        tokens = self.token_emb(condition["low_res"])
        context = torch.cat([context, tokens], 1)
        return context, torch.cat([mask, torch.ones_like(condition["low_res"], dtype=torch.bool)], 1)


class LucidrainsLayer(nn.ModuleDict):
    """Self-attention, cross-attention and feed-forward layer, named 0, 1 and 2."""

    def __init__(self, plan: TransformerPlan) -> None:
        options = plan.options
        super().__init__(
            {
                "0": CosineAttention(plan),
                "1": CosineAttention(plan),
                "2": GEGLU(options.hidden_size, plan.inner, plan.eps, rate=options.hidden_dropout),
            }
        )

    def forward(self, x: Tensor, mask: Tensor, prepared: Tensors, noise: Tensors) -> tuple[Tensor, Tensor]:
        """x (B, L, C); mask (B, 1 + S), keys and values of null token and text -> (x, x)."""
        x = x + self["0"](x, noise=noise.get("attention"))
        x = x + self["1"](x, prepared, mask, noise.get("crossattention"))
        x = x + self["2"](x, noise.get("ff"))
        return x, x


class CosineAttention(nn.Module):
    """Cosine attention, with a null token among the keys: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C, N, K = plan.options.hidden_size, plan.options.num_attention_heads, plan.head_dim
        self.null_kv = nn.Parameter(torch.zeros(2, N, 1, K))
        self.q_scale = nn.Parameter(torch.zeros(K))
        self.k_scale = nn.Parameter(torch.zeros(K))
        self.norm = GammaLayerNorm(C, plan.eps)
        self.to_q = nn.Linear(C, N * K, bias=False)
        self.to_kv = nn.Linear(C, 2 * N * K, bias=False)
        self.to_out = nn.Linear(N * K, C, bias=False)
        self.dropout = Dropout(plan.options.attention_dropout)
        self.heads = N

    def prepare(self, context: Tensor) -> dict[str, Tensor]:
        """Keys and values (B, 1 + S, N, K) of a context (B, S, C), the null token's first."""
        key, value = (split_heads(y, self.heads) for y in self.to_kv(context).chunk(2, -1))
        null = repeat(self.null_kv, "two n 1 k -> two b 1 n k", b=len(context))
        key, value = torch.cat([null[0], key], 1), torch.cat([null[1], value], 1)
        return {"key": _scaled(key, self.k_scale), "value": value}

    def forward(
        self,
        x: Tensor,
        prepared: Tensors | None = None,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Attend to the context in `prepared`, or to x; mask (B, 1 + S)."""
        x = self.norm(x)
        prepared = self.prepare(x) if prepared is None else prepared
        query = _scaled(split_heads(self.to_q(x), self.heads), self.q_scale)
        key, value = prepared["key"], prepared["value"]
        y = attend(query, key, value, mask=mask, scale=SCALE, dropout=self.dropout, noise=noise)
        return self.to_out(y)


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Unit vectors with a scale per channel: (B, L, N, K), (K,) -> (B, L, N, K)."""
    return (unit(at_least_float32(x)) * scale).to(x.dtype)
