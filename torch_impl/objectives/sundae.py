"""Step-unrolled denoising (Savinov et al. 2022, section 2.2): losses in nats, in at least float32."""

from typing import NamedTuple

import torch
from torch import Tensor

from dioscuri.families.sundae.denoising_options import Unrolling
from torch_impl.layers.precision import at_least_float32
from torch_impl.objectives.masked_tokens import cross_entropy
from torch_impl.samplers.choice import draw_tokens, inverse_cdf_sample
from torch_impl.samplers.noise import gumbel


class Terms(NamedTuple):
    """Terms of one pass: per picture (B,), mean cross-entropy and accuracy; `tokens` (B, L), the clean ones;
    and `unrolled` (B, L), the next pass's input."""

    loss: Tensor
    accuracy: Tensor
    tokens: Tensor
    unrolled: Tensor


def corrupt(
    tokens: Tensor, share: Tensor, uniform: Tensor, replacement: Tensor, codebook_size: int
) -> Tensor:
    """Tokens (B, L) with random ones where `uniform` (B, L) is below `share` (B, 1).

    `replacement` (B, L), uniform on [0, 1), determines them; a replacement may equal the token.
    """
    chosen = (replacement * codebook_size).long().clamp(max=codebook_size - 1)
    return torch.where(uniform < share, chosen, tokens)


def pass_terms(logits: Tensor, tokens: Tensor, uniform: Tensor | None) -> Terms:
    """Terms of logits (B, L, K) for clean tokens (B, L). `uniform` samples the next input, (B, L) by the
    inverse CDF, (B, L, K) as Gumbel noise."""
    logits = at_least_float32(logits)
    losses, hits = cross_entropy(logits, tokens), logits.argmax(-1) == tokens
    return Terms(
        losses.mean(1), hits.to(losses.dtype).mean(1), tokens, _next_input(logits.detach(), tokens, uniform)
    )


def unrolled_loss(terms: Terms, options: Unrolling, k: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Pass k's contribution to the loss (0-d) and to the metrics, which are sums over all passes."""
    loss, place = terms.loss.mean(), torch.arange(options.unroll_steps, device=terms.loss.device) == k
    weighted = options.weights[k] * loss
    accuracy = terms.accuracy.mean() / options.unroll_steps
    return weighted, {"loss": weighted, "accuracy": accuracy, "unrolled": loss * place}


def _next_input(logits: Tensor, tokens: Tensor, uniform: Tensor | None) -> Tensor:
    """The next pass's input; after the last pass, the clean tokens."""
    if uniform is None:
        return tokens
    if uniform.ndim == tokens.ndim:
        return inverse_cdf_sample(logits, uniform)
    return draw_tokens(logits, gumbel(uniform))
