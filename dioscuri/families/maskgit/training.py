"""Metrics and noise of the training of a masked token model."""

from dioscuri.families.maskgit.masking import masking_noise
from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.transformers import critic_plan, dropout_noise
from dioscuri.plans.noise import NoiseSpec

BUCKETS = 10
"""Number of ranges of the fraction of masked tokens whose losses are logged: (0, 0.1], (0.1, 0.2], ..."""


def metric_sizes() -> dict[str, int]:
    """Metrics by name: 0 for a number, else the length of a vector.

    `correct` over `masked` is the accuracy on masked tokens, `bucket_loss` over `bucket_count` the mean
    cross-entropy of the pictures of each range.
    """
    sizes = dict.fromkeys(("loss", "cross_entropy", "critic", "correct", "masked"), 0)
    return sizes | {"bucket_loss": BUCKETS, "bucket_count": BUCKETS}


def training_noise(
    hparams: HParams, plan: TransformerPlan, batch: int, text_length: int = 0
) -> tuple[NoiseSpec, ...]:
    """Noise of a step: masking, pictures whose condition is dropped (`drop`) or that get a first pass
    (`self_cond`), dropout, and the critic's input (`gumbel`, `critic_temperature`).

    Dropout in the critic's network has the prefix `critic.`.
    """
    options, critic = plan.options, plan.options.critic
    specs = list(masking_noise(hparams.loss, batch, plan.n_tokens))
    if hparams.loss.cond_dropout_prob and plan.conditions:
        specs.append(NoiseSpec("drop", "uniform", (batch,)))
    if options.self_cond:
        specs.append(NoiseSpec("self_cond", "uniform", (batch,)))
    specs += dropout_noise(plan, batch, text_length)
    if critic != "none":
        specs.append(NoiseSpec("gumbel", "uniform", (batch, plan.n_tokens, plan.codebook_size)))
        specs.append(NoiseSpec("critic_temperature", "uniform", (batch, 1, 1)))
        reader = critic_plan(plan) if critic == "token" else plan
        critic_noise = dropout_noise(reader, batch, text_length)
        specs += [NoiseSpec(f"critic.{spec.name}", spec.kind, spec.shape) for spec in critic_noise]
    return tuple(specs)


def embedding_shape(plan: TransformerPlan, batch: int) -> tuple[int, int, int]:
    """Shape of the embedding for self-conditioning, without class token and registers."""
    registers = plan.options.register if plan.options.architecture == "halton" else 0
    return batch, plan.length - plan.class_token - registers, plan.options.hidden_size
