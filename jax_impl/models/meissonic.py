"""Meissonic's transformer (Bai et al. 2024): text and picture attend to each other, first with weights for
each (MMDiT, Esser et al. 2024), then with the same weights; the time, the pooled text state and
micro-conditions enter through adaptive norms. See `token_transformer.py` for the calling convention.

Every token of the text is attended to, its padding too, as in the original: `text_mask` is not read.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.meissonic import SINUSOID, SINUSOID_FREQUENCIES, sequence_angles
from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.dense import Embedding, Linear, PointwiseDense, broadcast
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import RMSNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers
from jax_impl.models.meissonic_blocks import JointBlock, SharedBlock
from jax_impl.models.token_transformer import TokenTransformer, is_prepared, undropped
from jax_impl.models.uvit_blocks import PatchIn, PatchOut


class MeissonicTransformer(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every block in the backward pass to save memory; `scan` compiles one block of each
    kind as a loop over all.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        options, C = plan.options, plan.options.hidden_size
        self.time_text_embed = nnx.Dict(
            {"timestep_embedder": TwoLayers(SINUSOID, C), "text_embedder": TwoLayers(C, C)}
        )
        self.cond_embed = TwoLayers(options.cond_embed_dim + 5 * SINUSOID, C, bias=False)
        self.context_embedder = Linear(options.encoder_hidden_size, C)
        self.encoder_proj_layer_norm = RMSNorm(C, plan.eps)
        self.embed = MeissonicEmbed(plan)
        self.down_block = Resample(plan, "downsample") if options.force_down_up_sample else None
        self.project_to_hidden_norm = RMSNorm(C, plan.eps)
        self.project_to_hidden = Linear(C, C, use_bias=False)
        self.transformer_blocks = nnx.List([JointBlock(plan) for _ in range(options.num_hidden_layers)])
        self.single_transformer_blocks = nnx.List(
            [SharedBlock(plan) for _ in range(options.num_single_layers)]
        )
        self.project_from_hidden_norm = RMSNorm(C, plan.eps)
        self.project_from_hidden = Linear(C, C, use_bias=False)
        self.up_block = Resample(plan, "upsample") if options.force_down_up_sample else None
        self.mlm_layer = MeissonicMlmLayer(plan)
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """What does not depend on the time: the text's first states, `prepared.context`, and embeddings of
        pooled state and micro-conditions."""
        if is_prepared(condition):
            return dict(condition)
        dtype = self.context_embedder.kernel.dtype
        context = self.encoder_proj_layer_norm(self.context_embedder(condition["text"].astype(dtype)))
        micro = sinusoidal(_at_least(dtype, condition["micro"]))
        pooled = condition["pooled"].astype(micro.dtype)
        cond_inputs = jnp.concatenate([pooled, rearrange(micro, "b n e -> b (n e)")], -1).astype(dtype)
        embedded = self.cond_embed(cond_inputs)
        return {
            **condition,
            "prepared.context": undropped(context, condition),
            "prepared.cond_embed_in": cond_inputs,
            "prepared.cond_embed_out": embedded,
            "prepared.pooled": self.time_text_embed["text_embedder"](embedded),
        }

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """States (B, L, C) of codes after the last block and upsampling. There is no dropout.

        Intermediates besides `embed`: `cond_embed_in`, `cond_embed_out`, `time_proj`, `temb` (B, C), the
        grids `embed_out`, `down_out` and `up_out`, the first states of text and picture, `context_in` and
        `image_in`, their states after the first blocks, `block<i>_context` and `block<i>_image`, and those of
        both, after the others, `single<i>_out`, and after the last projection, `project_from_hidden_out`.
        """
        del noise
        states = under(self.prepare(condition), "prepared")
        context, height = states["context"], self.plan.hidden_shape[0]
        aux: dict[str, Array] = {name: states[name] for name in ("cond_embed_in", "cond_embed_out")}
        aux["embed_out"] = x = self.embed(ids)
        aux["down_out"] = x = x if self.down_block is None else self.down_block(x)
        x = self.project_to_hidden(self.project_to_hidden_norm(rearrange(x, "b h w c -> b (h w) c")))
        aux |= {"context_in": context, "image_in": x}
        time_proj = sinusoidal(1000 * _at_least(x.dtype, condition["timestep"])).astype(x.dtype)
        temb = self.time_text_embed["timestep_embedder"](time_proj) + states["pooled"]
        aux |= {"time_proj": time_proj, "temb": temb}
        shared = (jax.nn.silu(temb), *self._rotation(context))
        (context, x), outputs = apply_layers(
            self.transformer_blocks,
            (context, x),
            shared,
            [()] * len(self.transformer_blocks),
            checkpoint=self.checkpoint,
            scan=self.scan,
        )
        for i, (text, image) in enumerate(outputs):
            aux |= {f"block{i}_context": text, f"block{i}_image": image}
        x, outputs = apply_layers(
            self.single_transformer_blocks,
            jnp.concatenate([context, x], 1),
            shared,
            [()] * len(self.single_transformer_blocks),
            checkpoint=self.checkpoint,
            scan=self.scan,
        )
        aux |= {f"single{i}_out": output for i, output in enumerate(outputs)}
        aux["embed"] = x = x[:, context.shape[1] :]
        aux["project_from_hidden_out"] = x = self.project_from_hidden(self.project_from_hidden_norm(x))
        x = rearrange(x, "b (h w) c -> b h w c", h=height)
        aux["up_out"] = x = x if self.up_block is None else self.up_block(x)
        return rearrange(x, "b h w c -> b (h w) c"), aux

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.mlm_layer(x, outputs))

    def _rotation(self, context: Array) -> tuple[Array, Array]:
        """Cosines and sines (S + L, 1, K / 2), computed in float64."""
        angles = sequence_angles(self.plan, context.shape[1])[:, None]
        dtype = jnp.promote_types(context.dtype, jnp.float32)
        return jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)


class TwoLayers(nnx.Module):
    """Dense layer, SiLU, dense layer: (..., I) -> (..., C)."""

    def __init__(self, inputs: int, width: int, *, bias: bool = True) -> None:
        self.linear_1 = Linear(inputs, width, use_bias=bias)
        self.linear_2 = Linear(width, width, use_bias=bias)

    def __call__(self, x: Array) -> Array:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class MeissonicEmbed(nnx.Module):
    """Embedding, norm, 1x1 convolution: ids (B, L) -> (B, h, w, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.embeddings = Embedding(plan.vocab_size, C)
        self.layer_norm = RMSNorm(C, plan.eps)
        self.conv = PointwiseDense(C, C, use_bias=False)
        self.grid = plan.grid

    def __call__(self, ids: Array) -> Array:
        x = self.conv(self.layer_norm(self.embeddings(ids)))
        return rearrange(x, "b (h w) c -> b h w c", h=self.grid)


class Resample(nnx.Dict):
    """Norm, then a 2x2 convolution of stride 2 or, for 'upsample', its transpose: (B, h, w, C) -> half or
    twice the sides."""

    def __init__(self, plan: TransformerPlan, name: str) -> None:
        C = plan.options.hidden_size
        conv = PatchIn(C, bias=False) if name == "downsample" else PatchOut(C, bias=False)
        super().__init__({name: nnx.Dict({"norm": RMSNorm(C, plan.eps), "conv": conv})})
        self.name = name

    def __call__(self, x: Array) -> Array:
        layers = self[self.name]
        return layers["conv"](layers["norm"](x))


class MeissonicMlmLayer(nnx.Module):
    """1x1 convolution, norm, 1x1 convolution: (B, L, C) -> (B, L, outputs)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.conv1 = PointwiseDense(C, C, use_bias=False)
        self.layer_norm = RMSNorm(C, plan.eps)
        self.conv2 = PointwiseDense(C, plan.outputs, use_bias=False)

    def __call__(self, x: Array, outputs: int | None = None) -> Array:
        return self.conv2(self.layer_norm(self.conv1(x)), outputs)


def sinusoidal(x: Array) -> Array:
    """Cosines, then sines of x at the frequencies of PyTorch's float32 arithmetic: (...) -> (..., 256)."""
    angles = x[..., None] * broadcast(jnp.asarray(SINUSOID_FREQUENCIES, x.dtype), x[..., None])
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def _at_least(dtype: jnp.dtype, x: Array) -> Array:
    """x in float32 or, in a network of float64, in float64."""
    return at_least_float32(x.astype(jnp.promote_types(x.dtype, dtype)))
