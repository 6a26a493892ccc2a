"""Metrics, buffers and noise of a tokenizer's training and of its dead-code reset."""

import numpy as np

from dioscuri.engine import Array
from dioscuri.families.vqgan import discriminators, tables
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.options import HParams, Loss
from dioscuri.families.vqgan.plan import TokenizerPlan, plan_of
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import Table, initial_values

METRICS = (
    "loss",
    "reconstruction",
    "perceptual",
    "quantiser",
    "generator",
    "contrastive",
    "discriminator",
    "lecam",
    "disc_weight",
    "logits_real",
    "logits_fake",
    "usage",
    "perplexity",
)
"""Numbers of a training step, each 0-d. `usage` is the fraction of codes used by the batch, `perplexity` that
of the codes. Adversarial metrics are 0 before `loss.disc_start`."""


LECAM_REAL, LECAM_FAKE = "lecam.real", "lecam.fake"
"""Buffers (1,) of the LeCam penalty."""
ENOUGH_BATCHES = 10**6
"""After this many, averages that started at 0 need no correction."""


def plans(hparams: HParams) -> tuple[TokenizerPlan, discriminators.DiscriminatorPlan | None]:
    """Layers of the tokenizer and of the discriminator, if there is one."""
    data = hparams.data
    critic = discriminators.make_plan(hparams.discriminator, data.target_res, data.channels)
    return plan_of(hparams), critic


def parameter_table(hparams: HParams) -> Table:
    """Parameters of the tokenizer and of the discriminator."""
    plan, critic = plans(hparams)
    return tables.parameter_table(plan) | discriminators.parameter_table(critic)


def gumbel_temperature(step: int, options: Tokenizer) -> float:
    """Temperature of a Gumbel quantiser's mixture, linear in the step until its last value."""
    first, last = options.gumbel_temperature
    share = min(1.0, step / options.gumbel_temperature_steps)
    return first + share * (last - first)


def entropy_annealing(step: int, options: Loss) -> float:
    """Additional weight of the entropy loss, times `entropy_loss_ratio`; linear in the step until it is 0."""
    return options.entropy_annealing_factor * max(0.0, 1 - step / options.entropy_annealing_steps)


def initial_buffers(hparams: HParams, seed: int, codebook: Array | None = None) -> dict[str, Array]:
    """Tensors that a step changes without a gradient: the averages of a codebook, the vectors of power
    iterations, the average logits of the LeCam penalty and, to replace dead codes, each code's `share` (K,)
    of the tokens and `candidates` (K, D).

    With a trained codebook (K, D), the averages reproduce it, with equal counts for all codes.
    """
    loss, (plan, critic) = hparams.loss, plans(hparams)
    values = initial_values(tables.buffer_table(plan) | discriminators.buffer_table(critic), seed)
    if loss.lecam_weight:
        values |= {name: np.zeros(1, np.float32) for name in (LECAM_REAL, LECAM_FAKE)}
    K, D = plan.codebook_size, plan.embedding_dim
    if loss.revive_below:
        values["share"] = np.full(K, 1 / K, np.float32)
        values["candidates"] = np.zeros((K, D), np.float32)
    if codebook is not None and "embedding_sum" in values:
        values |= {"cluster_size": np.ones(K, np.float32), "embedding_sum": codebook}
        if "averaged" in values:
            values["averaged"] = np.full(1, ENOUGH_BATCHES, np.float32)
    return values


def reset_noise(loss: Loss, batch: int, vectors: tuple[int, int]) -> tuple[NoiseSpec, ...]:
    """Uniform noise (B, h, w) that selects candidates among the batch's encoder outputs (B, h, w, D)."""
    return (NoiseSpec("dead_code_reset", "uniform", (batch, *vectors)),) if loss.revive_below else ()
