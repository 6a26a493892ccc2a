"""Cross-entropy on masked tokens (MaskGIT, Chang et al. 2022, equation 2) and the token critic's loss
(Lezama et al. 2022, equation 4). Losses are in nats, in at least float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dioscuri.families.token_models.masking_options import Masking
from jax_impl.layers.precision import at_least_float32
from jax_impl.objectives.masking import IGNORED, Masked

BUCKETS = 10
"""Number of ranges of the mask ratio whose losses are logged: (0, 0.1], (0.1, 0.2], ..."""


class Terms(NamedTuple):
    """Per picture, each (B,): sums over tokens of weighted losses, of weights, of correct predictions and of
    masked positions; the mask ratio; the critic's loss, zero without a critic."""

    loss: Array
    weight: Array
    correct: Array
    masked: Array
    ratio: Array
    critic: Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Losses (B, L) of logits (B, L, V); 0 where the label is IGNORED.

    With smoothing s the target has 1 - s + s / V at the label and s / V elsewhere.
    """
    log_p = jax.nn.log_softmax(at_least_float32(logits), axis=-1)
    known = labels != IGNORED
    chosen = jnp.take_along_axis(log_p, jnp.where(known, labels, 0)[..., None], axis=-1)[..., 0]
    losses = -(1 - label_smoothing) * chosen
    if label_smoothing:
        losses = losses - label_smoothing * jnp.mean(log_p, axis=-1)
    return jnp.where(known, losses, 0.0)


def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """Losses (B, L) of logits (B, L, V) against probabilities (B, L, K) of the first K outputs."""
    K = targets.shape[-1]
    return -jnp.sum(targets * jax.nn.log_softmax(at_least_float32(logits)[..., :K], axis=-1), axis=-1)


def soft_targets(distances: Array, temperature: float) -> Array:
    """Probabilities (B, L, K) of codes at squared distances (B, L, K) from the encoded vectors."""
    return jax.nn.softmax(-at_least_float32(distances) / temperature, axis=-1)


def token_terms(
    logits: Array,
    masked: Masked,
    options: Masking,
    targets: Array | None = None,
    critic: Array | None = None,
) -> Terms:
    """Terms of the loss of logits (B, L, V).

    `targets` (B, L, K) are soft targets instead of the labels, `critic` (B,) the critic's loss.
    """
    if targets is None:
        losses = cross_entropy(logits, masked.labels, options.label_smoothing)
    else:
        losses = soft_cross_entropy(logits, targets)
    weights, hits = masked.weights.astype(losses.dtype), masked.mask & (logits.argmax(-1) == masked.labels)
    return Terms(
        jnp.sum(losses * weights, 1),
        jnp.sum(weights, 1),
        jnp.sum(hits, 1).astype(losses.dtype),
        jnp.sum(masked.mask, 1).astype(losses.dtype),
        masked.ratio.astype(losses.dtype),
        jnp.zeros_like(losses[:, 0]) if critic is None else critic,
    )


def statistics(terms: Terms) -> Array:
    """Mean weight of a picture (0-d), the divisor of the batch's mean over tokens; not differentiated."""
    return jax.lax.stop_gradient(terms.weight).mean()


def training_loss(
    terms: Terms, options: Masking, mean_weight: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Mean loss (0-d) and metrics. `mean_weight`: `statistics` of the global batch; None: of these terms.

    Metrics are `loss`, `cross_entropy`, `critic`, and sums to be divided after averaging over steps:
    `correct` by `masked`, and `bucket_loss` by `bucket_count`, both (BUCKETS,). A picture with an empty
    Bernoulli mask counts as 0.
    """
    if options.normalisation == "pictures":
        ce = jnp.mean(terms.loss / _at_least_some(terms.weight))
    else:
        ce = jnp.mean(terms.loss) / _at_least_some(statistics(terms) if mean_weight is None else mean_weight)
    critic = terms.critic.mean()
    bucket_loss, bucket_count = bucketed_losses(terms.loss / _at_least_some(terms.weight), terms.ratio)
    loss = ce + options.critic_loss_weight * critic
    metrics = {
        "loss": loss,
        "cross_entropy": ce,
        "critic": critic,
        "correct": terms.correct.mean(),
        "masked": terms.masked.mean(),
        "bucket_loss": bucket_loss,
        "bucket_count": bucket_count,
    }
    return loss, metrics


def bucketed_losses(losses: Array, ratio: Array) -> tuple[Array, Array]:
    """Sum of losses (B,) and number of pictures in each range of mask ratios (B,), both (BUCKETS,)."""
    bucket = jnp.clip(jnp.ceil(ratio * BUCKETS).astype(jnp.int32) - 1, 0, BUCKETS - 1)
    member = jax.nn.one_hot(bucket, BUCKETS).astype(losses.dtype)
    return losses @ member, member.sum(0)


def critic_inputs(
    logits: Array, inputs: Array, tokens: Array, mask_id: int, gumbel: Array, temperature: Array | float
) -> Array:
    """Tokens (B, L) for the critic: sampled ones at masked inputs, the true ones elsewhere.

    `gumbel` (B, L, V) is standard Gumbel noise; the logits are divided by `temperature`.
    """
    drawn = jnp.argmax(at_least_float32(logits) / temperature + gumbel, axis=-1)
    return jnp.where(inputs == mask_id, drawn, tokens)


def critic_loss(scores: Array, judged: Array, tokens: Array) -> Array:
    """Mean binary cross-entropy (B,) of scores (B, L), which should be high where a token is wrong."""
    wrong = judged != tokens
    return -jax.nn.log_sigmoid(at_least_float32(jnp.where(wrong, scores, -scores))).mean(1)


def _at_least_some(weight: Array) -> Array:
    return jnp.where(weight > 0, weight, 1.0)
