"""Cross-entropy on masked tokens (MaskGIT, Chang et al. 2022, equation 2) and the token critic's loss
(Lezama et al. 2022, equation 4). Losses are in nats, in at least float32.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dioscuri.families.token_models.masking_options import Masking
from torch_impl.layers.precision import at_least_float32
from torch_impl.objectives.masking import IGNORED, Masked

BUCKETS = 10
"""Number of ranges of the mask ratio whose losses are logged: (0, 0.1], (0.1, 0.2], ..."""


class Terms(NamedTuple):
    """Per picture, each (B,): sums over tokens of weighted losses, of weights, of correct predictions and of
    masked positions; the mask ratio; the critic's loss, zero without a critic."""

    loss: Tensor
    weight: Tensor
    correct: Tensor
    masked: Tensor
    ratio: Tensor
    critic: Tensor


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Losses (B, L) of logits (B, L, V); 0 where the label is IGNORED.

    With smoothing s the target has 1 - s + s / V at the label and s / V elsewhere.
    """
    B, L, V = logits.shape
    losses = F.cross_entropy(
        at_least_float32(logits).reshape(B * L, V),
        labels.reshape(B * L),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return losses.reshape(B, L)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses (B, L) of logits (B, L, V) against probabilities (B, L, K) of the first K outputs."""
    K = targets.shape[-1]
    return -torch.sum(targets * F.log_softmax(at_least_float32(logits)[..., :K], dim=-1), dim=-1)


def soft_targets(distances: Tensor, temperature: float) -> Tensor:
    """Probabilities (B, L, K) of codes at squared distances (B, L, K) from the encoded vectors."""
    return torch.softmax(-at_least_float32(distances) / temperature, dim=-1)


def token_terms(
    logits: Tensor,
    masked: Masked,
    options: Masking,
    targets: Tensor | None = None,
    critic: Tensor | None = None,
) -> Terms:
    """Terms of the loss of logits (B, L, V).

    `targets` (B, L, K) are soft targets instead of the labels, `critic` (B,) the critic's loss.
    """
    if targets is None:
        losses = cross_entropy(logits, masked.labels, options.label_smoothing)
    else:
        losses = soft_cross_entropy(logits, targets)
    weights, hits = masked.weights.to(losses.dtype), masked.mask & (logits.argmax(-1) == masked.labels)
    return Terms(
        torch.sum(losses * weights, 1),
        torch.sum(weights, 1),
        torch.sum(hits, 1).to(losses.dtype),
        torch.sum(masked.mask, 1).to(losses.dtype),
        masked.ratio.to(losses.dtype),
        torch.zeros_like(losses[:, 0]) if critic is None else critic,
    )


def statistics(terms: Terms) -> Tensor:
    """Mean weight of a picture (0-d), the divisor of the batch's mean over tokens; not differentiated."""
    return terms.weight.detach().mean()


def training_loss(
    terms: Terms, options: Masking, mean_weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss (0-d) and metrics. `mean_weight`: `statistics` of the global batch; None: of these terms.

    Metrics are `loss`, `cross_entropy`, `critic`, and sums to be divided after averaging over steps:
    `correct` by `masked`, and `bucket_loss` by `bucket_count`, both (BUCKETS,). A picture with an empty
    Bernoulli mask counts as 0.
    """
    if options.normalisation == "pictures":
        ce = torch.mean(terms.loss / _at_least_some(terms.weight))
    else:
        ce = torch.mean(terms.loss) / _at_least_some(
            statistics(terms) if mean_weight is None else mean_weight
        )
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
    return loss, {name: value.detach() for name, value in metrics.items()}


def bucketed_losses(losses: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of losses (B,) and number of pictures in each range of mask ratios (B,), both (BUCKETS,)."""
    bucket = torch.clamp(torch.ceil(ratio * BUCKETS).to(torch.int64) - 1, 0, BUCKETS - 1)
    member = F.one_hot(bucket, BUCKETS).to(losses.dtype)
    return losses @ member, member.sum(0)


def critic_inputs(
    logits: Tensor, inputs: Tensor, tokens: Tensor, mask_id: int, gumbel: Tensor, temperature: Tensor | float
) -> Tensor:
    """Tokens (B, L) for the critic: sampled ones at masked inputs, the true ones elsewhere.

    `gumbel` (B, L, V) is standard Gumbel noise; the logits are divided by `temperature`.
    """
    drawn = torch.argmax(at_least_float32(logits) / temperature + gumbel, dim=-1)
    return torch.where(inputs == mask_id, drawn, tokens)


def critic_loss(scores: Tensor, judged: Tensor, tokens: Tensor) -> Tensor:
    """Mean binary cross-entropy (B,) of scores (B, L), which should be high where a token is wrong."""
    wrong = judged != tokens
    return -F.logsigmoid(at_least_float32(torch.where(wrong, scores, -scores))).mean(1)


def _at_least_some(weight: Tensor) -> Tensor:
    return torch.where(weight > 0, weight, 1.0)
