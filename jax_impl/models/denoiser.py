"""The network of SUNDAE (Savinov et al. 2022): from corrupted tokens to logits of the clean ones."""

from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.sundae.plan import EPS, DenoiserPlan, Stack
from jax_impl.layers.dense import Embedding, Linear
from jax_impl.layers.named import Arrays
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.models.hourglass import build_body
from jax_impl.models.text_transformer import TextEncoder
from jax_impl.pretrained import Pretrained


class Denoiser(Pretrained, nnx.Module):
    """Embeddings, hourglass or text encoder, output layer; it computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one of the equal
    layers of a grid, as a loop.
    """

    def __init__(self, plan: DenoiserPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        options, d, V = plan.options, plan.options.dim, plan.codebook_size
        is_text = options.architecture == "transformer"
        depth = plan.body.depth if isinstance(plan.body, Stack) else 0
        self.token_emb = Embedding(V, d)
        self.class_emb = Embedding(options.num_classes, d) if options.num_classes else None
        self.pos_emb = None if options.use_rotary else Embedding(plan.n_tokens, d)
        self.transformer = (
            None if is_text else build_body(plan, plan.body, checkpoint=checkpoint, outermost=True, scan=scan)
        )
        self.attn_layers = TextEncoder(plan, depth, checkpoint=checkpoint) if is_text else None
        self.norm = LayerNorm(d, EPS) if is_text else None
        self.to_logits = Linear(d, V)
        self.plan = plan

    def prepare(self, condition: Arrays) -> Arrays:
        """Nothing to precompute."""
        return condition

    def __call__(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """ids (B, L) and, with classes, `label` (B,) -> logits (B, L, V) in at least float32, and
        intermediates by module name."""
        del noise
        x, aux = self.token_emb(ids), {}
        if self.class_emb is not None:
            x = x + rearrange(self.class_emb(condition["label"]), "b c -> b 1 c")
        if self.pos_emb is not None:
            x = x + rearrange(self.pos_emb.embedding[: ids.shape[1]], "l c -> 1 l c")
        if self.transformer is not None:
            x, intermediates = self.transformer(x)
            aux = {f"transformer.{name}": value for name, value in intermediates.items()}
        elif self.attn_layers is not None and self.norm is not None:
            x = self.norm(self.attn_layers(x))
        return at_least_float32(self.to_logits(x)), {**aux, "embed": x}


def build_denoiser(plan: DenoiserPlan, *, checkpoint: bool = False, scan: bool = False) -> Denoiser:
    """The network of a plan."""
    return Denoiser(plan, checkpoint=checkpoint, scan=scan)
