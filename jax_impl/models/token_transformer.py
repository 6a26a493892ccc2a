"""The call signature and the conditioning that the networks of masked token models share.

All networks of this family have the same calling convention, `model(ids, condition, noise)`: ids (B, L) are
codes and `plan.mask_id`, row by row; `condition` is a dict with any of
    label (B,)         class ids; `plan.null_label`, or left out: no class
    text (B, S, E)     states of a text encoder; text_mask (B, S) is True at real tokens; text_keep (B,) is 0
                       where the text is dropped
    pooled (B, P)      pooled state of the text encoder
    micro (B, 5)       original width and height, top and left of the crop, aesthetic score
    self (B, L', C)    `embed` of the last pass, for self-conditioning
    timestep (B,)      the time that Meissonic is told; (1,) serves the whole batch
and `noise` holds the arrays that `dropout_noise` lists, or is None. The result is logits (B, L, outputs) in
at least float32 and a flat dict of intermediates, among them `embed` (B, L', C), the input of the last
layers, where L' is the number of the transformer's tokens, which may stand for patches of codes. With
`positions` (B, n), of codes, and `outputs`, only those logits are computed, (B, n, outputs): `model.hidden`
returns the rows from which they follow, and the intermediates, `model.logits` the logits of rows.
`model.prepare(condition)` computes once what does not depend on the ids; its result is again a condition,
with the batch first.
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.feed_forward import GEGLU
from jax_impl.layers.named import Arrays
from jax_impl.pretrained import Pretrained


class TokenTransformer(Pretrained, nnx.Module):
    """A network computes states in `hidden`, and `logits` from them."""

    plan: TransformerPlan

    def __call__(
        self,
        ids: Array,
        condition: Arrays,
        noise: Arrays | None = None,
        positions: Array | None = None,
        outputs: int | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Logits of all codes, or those at `positions`, and the intermediates."""
        x, aux = self.hidden(ids, condition, noise)
        first = int(self.plan.class_token)
        rows = x[:, first:] if positions is None else rows_at(x, positions + first)
        return self.logits(rows, outputs), aux

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Rows from which the logits follow, and the intermediates."""
        raise NotImplementedError

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Of rows of `hidden`; the first `outputs`, if given."""
        raise NotImplementedError


def rows_at(x: Array, positions: Array) -> Array:
    """Rows of x (B, L, C) at positions (B, n): (B, n, C)."""
    return jnp.take_along_axis(x, rearrange(positions, "b n -> b n 1"), axis=1)


def is_prepared(condition: Arrays) -> bool:
    """Whether the condition comes from `prepare`."""
    return any(name.startswith("prepared.") for name in condition)


def undropped(context: Array, condition: Arrays) -> Array:
    """Text states (B, S, C), zero in rows whose `text_keep` is 0 or False."""
    if "text_keep" not in condition:
        return context
    return context * rearrange(condition["text_keep"], "b -> b 1 1").astype(context.dtype)


def with_class_token(ids: Array, condition: Arrays, plan: TransformerPlan) -> Array:
    """Prepend the class's token, or that of no class: (B, L) -> (B, 1 + L). Unchanged for models without
    classes."""
    if not plan.class_token:
        return ids
    first, null = plan.class_tokens
    label = condition.get("label", jnp.full_like(ids[:, 0], plan.null_label)).astype(ids.dtype)
    token = jnp.where(label < plan.options.num_classes, first + label, null)
    return jnp.concatenate([rearrange(token, "b -> b 1"), ids], 1)


def self_condition_layer(plan: TransformerPlan) -> GEGLU | None:
    """The layer on the last pass's embedding; None without self-conditioning."""
    if not plan.options.self_cond:
        return None
    return GEGLU(plan.options.hidden_size, plan.self_cond_inner, 1e-5)


def self_conditioned(x: Array, layer: GEGLU | None, condition: Arrays, plan: TransformerPlan) -> Array:
    """x (B, L, C) plus the layer's result for `self` (B, L', C), except at the class token."""
    if layer is None or "self" not in condition:
        return x
    addition = layer(condition["self"].astype(x.dtype))
    return x + (jnp.pad(addition, ((0, 0), (1, 0), (0, 0))) if plan.class_token else addition)
