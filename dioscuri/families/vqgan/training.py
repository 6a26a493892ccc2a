"""Metrics, buffers and noise of a tokenizer's training and of its dead-code reset."""

import numpy as np

from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.options import Loss
from dioscuri.plans.noise import NoiseSpec

METRICS = (
    "loss",
    "reconstruction",
    "perceptual",
    "quantiser",
    "generator",
    "contrastive",
    "discriminator",
    "disc_weight",
    "logits_real",
    "logits_fake",
    "usage",
    "perplexity",
)
"""Numbers of a training step, each 0-d. `usage` is the fraction of codes used by the batch, `perplexity` that
of the codes. Adversarial metrics are 0 before `loss.disc_start`."""


def gumbel_temperature(step: int, options: Tokenizer) -> float:
    """Temperature of a Gumbel quantiser's mixture, linear in the step until its last value."""
    first, last = options.gumbel_temperature
    share = min(1.0, step / options.gumbel_temperature_steps)
    return first + share * (last - first)


def reset_buffers(loss: Loss, codebook_size: int, embedding_dim: int) -> dict[str, np.ndarray]:
    """`share` (codes,), each code's fraction of the tokens; `candidates` (codes, D) to replace dead codes."""
    if not loss.revive_below:
        return {}
    share = np.full(codebook_size, 1 / codebook_size, np.float32)
    return {"share": share, "candidates": np.zeros((codebook_size, embedding_dim), np.float32)}


def reset_noise(loss: Loss, batch: int, grid: int) -> tuple[NoiseSpec, ...]:
    """Uniform noise (B, h, w) that selects candidates among the batch's encoder outputs."""
    return (NoiseSpec("dead_code_reset", "uniform", (batch, grid, grid)),) if loss.revive_below else ()
