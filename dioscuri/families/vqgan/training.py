"""Metrics, buffers and noise of a tokenizer's training, and the revival of dead codes."""

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
"""Numbers of a training step, each 0-d. `usage`, the share of codes that the batch took, and `perplexity`
are of the codes; those of the adversarial game are 0 before it begins."""


def gumbel_temperature(step: int, options: Tokenizer) -> float:
    """Temperature of a Gumbel quantiser's mixture, linear in the steps to its last value."""
    first, last = options.gumbel_temperature
    share = min(1.0, step / options.gumbel_temperature_steps)
    return first + share * (last - first)


def reset_buffers(loss: Loss, codebook_size: int, embedding_dim: int) -> dict[str, np.ndarray]:
    """`share` (codes,) of each code among the tokens; `candidates` (codes, D) for the places of dead ones."""
    if not loss.revive_below:
        return {}
    share = np.full(codebook_size, 1 / codebook_size, np.float32)
    return {"share": share, "candidates": np.zeros((codebook_size, embedding_dim), np.float32)}


def reset_noise(loss: Loss, batch: int, grid: int) -> tuple[NoiseSpec, ...]:
    """Uniform numbers (B, h, w) by which candidates are chosen among the batch's encoder outputs."""
    return (NoiseSpec("dead_code_reset", "uniform", (batch, grid, grid)),) if loss.revive_below else ()
