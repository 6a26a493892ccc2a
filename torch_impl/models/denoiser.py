"""The network of SUNDAE (Savinov et al. 2022): from corrupted tokens to logits of the clean ones."""

from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.sundae.plan import EPS, DenoiserPlan, Stack
from torch_impl.layers.named import Tensors
from torch_impl.layers.precision import at_least_float32
from torch_impl.models.hourglass import build_body
from torch_impl.models.text_transformer import TextEncoder
from torch_impl.pretrained import Pretrained


class Denoiser(Pretrained, nn.Module):
    """Embeddings, hourglass or text encoder, output layer; it computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """

    def __init__(self, plan: DenoiserPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        options, d, V = plan.options, plan.options.dim, plan.codebook_size
        is_text = options.architecture == "transformer"
        depth = plan.body.depth if isinstance(plan.body, Stack) else 0
        self.token_emb = nn.Embedding(V, d)
        self.class_emb = nn.Embedding(options.num_classes, d) if options.num_classes else None
        self.pos_emb = None if options.use_rotary else nn.Embedding(plan.n_tokens, d)
        self.transformer = (
            None if is_text else build_body(plan, plan.body, checkpoint=checkpoint, outermost=True)
        )
        self.attn_layers = TextEncoder(plan, depth, checkpoint=checkpoint) if is_text else None
        self.norm = nn.LayerNorm(d, EPS) if is_text else None
        self.to_logits = nn.Linear(d, V)
        self.plan = plan

    def prepare(self, condition: Tensors) -> Tensors:
        """Nothing to precompute."""
        return condition

    def forward(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """ids (B, L) and, with classes, `label` (B,) -> logits (B, L, V) in at least float32, and
        intermediates by module name."""
        del noise
        x, aux = self.token_emb(ids), {}
        if self.class_emb is not None:
            x = x + rearrange(self.class_emb(condition["label"]), "b c -> b 1 c")
        if self.pos_emb is not None:
            x = x + rearrange(self.pos_emb.weight[: ids.shape[1]], "l c -> 1 l c")
        if self.transformer is not None:
            x, intermediates = self.transformer(x)
            aux = {f"transformer.{name}": value for name, value in intermediates.items()}
        elif self.attn_layers is not None and self.norm is not None:
            x = self.norm(self.attn_layers(x))
        return at_least_float32(self.to_logits(x)), {**aux, "embed": x}


def build_denoiser(plan: DenoiserPlan, *, checkpoint: bool = False) -> Denoiser:
    """The network of a plan."""
    return Denoiser(plan, checkpoint=checkpoint)
