"""The network of SUNDAE (Savinov et al. 2022): from corrupted tokens to logits of the clean ones."""

import torch
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.sundae.plan import EPS, DenoiserPlan, Stack
from torch_impl.layers.dense import Dense, Embedding
from torch_impl.layers.dropout import Tensors
from torch_impl.layers.norms import LayerNorm
from torch_impl.layers.precision import at_least_float32
from torch_impl.models.hourglass import Dtype, build_body
from torch_impl.models.text_transformer import TextEncoder
from torch_impl.pretrained import Pretrained


class Denoiser(Pretrained, nn.Module):
    """Embeddings, hourglass or text encoder, output layer. Parameters begin as zeros.

    `dtype` is that of the arithmetic, None: as the parameters. `checkpoint` recomputes every layer in the
    backward pass to save memory.
    """

    def __init__(self, plan: DenoiserPlan, *, dtype: Dtype = None, checkpoint: bool = False) -> None:
        super().__init__()
        options, d, V = plan.options, plan.options.dim, plan.codebook_size
        is_text = options.architecture == "transformer"
        depth = plan.body.depth if isinstance(plan.body, Stack) else 0
        self.token_emb = Embedding(V, d, dtype=dtype)
        self.class_emb = Embedding(options.num_classes, d, dtype=dtype) if options.num_classes else None
        self.pos_emb = None if options.use_rotary else Embedding(plan.n_tokens, d, dtype=dtype)
        self.transformer = (
            None if is_text else build_body(plan, plan.body, dtype, checkpoint=checkpoint, outermost=True)
        )
        self.attn_layers = TextEncoder(plan, depth, dtype, checkpoint=checkpoint) if is_text else None
        self.norm = LayerNorm(d, EPS, bias=True) if is_text else None
        self.to_logits = Dense(d, V, bias=True, dtype=dtype)
        self.plan = plan

    def prepare(self, condition: Tensors) -> Tensors:
        """Nothing can be computed beforehand."""
        return condition

    def forward(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """ids (B, L) and, with classes, `label` (B,) -> logits (B, L, V), at least float32, and intermediates
        under the names of their parts."""
        del noise
        x, aux = self.token_emb(ids), {}
        if self.class_emb is not None:
            x = x + rearrange(self.class_emb(condition["label"]), "b c -> b 1 c")
        if self.pos_emb is not None:
            x = x + rearrange(self.pos_emb.first(ids.shape[1]), "l c -> 1 l c")
        if self.transformer is not None:
            x, found = self.transformer(x)
            aux = {f"transformer.{name}": value for name, value in found.items()}
        elif self.attn_layers is not None and self.norm is not None:
            x = self.norm(self.attn_layers(x))
        return at_least_float32(self.to_logits(x)), {**aux, "embed": x}


def build_denoiser(
    plan: DenoiserPlan, *, dtype: torch.dtype | None = None, checkpoint: bool = False
) -> Denoiser:
    """The network of a plan."""
    return Denoiser(plan, dtype=dtype, checkpoint=checkpoint)
