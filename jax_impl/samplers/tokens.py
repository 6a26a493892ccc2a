"""The entry point of all token samplers."""

from collections.abc import Sequence

from jax import Array

from dioscuri.families.maskgit.decoding import make_steps, positions_to_predict
from dioscuri.families.token_models.masking_options import Sampling
from jax_impl.samplers.confidence import confidence_sample
from jax_impl.samplers.decoder import Predictor, Sampled, make_decoder, steps_like
from jax_impl.samplers.halton import halton_confidence_sample, halton_sample
from jax_impl.samplers.masked_diffusion import ancestral_sample
from jax_impl.samplers.noise import StepNoise
from jax_impl.samplers.scores import scores_sample


def sample_tokens(
    predictor: Predictor,
    start: Array,
    noise: StepNoise,
    options: Sampling,
    *,
    embedding: Array | None = None,
    offsets: Array | None = None,
    every_step: bool = False,
    numbers: Sequence[Array] | None = None,
) -> Sampled:
    """Sample the tokens that are masked in `start` (B, L).

    `noise(k, positions)` returns the noise of a step. An `embedding` (B, L', C) of zeros enables
    self-conditioning. `offsets` (B,) roll the Halton order (`randomize`). With `every_step`, the Halton
    sampler predicts the whole picture in every step; otherwise `drawn` holds only the tokens that it writes.
    `numbers` are for `make_steps`.
    """
    counts = positions_to_predict(options, start.shape[1], every_step=every_step)
    steps = steps_like(make_steps(options, start.shape[1], numbers), start)
    decoder = make_decoder(predictor, options, steps, noise, counts)
    match options.sampler:
        case "halton":
            return halton_sample(decoder, start, embedding, offsets)
        case "halton_confidence":
            return halton_confidence_sample(decoder, start, embedding)
        case "ancestral":
            return ancestral_sample(decoder, start, embedding)
        case "scores":
            return scores_sample(decoder, start, embedding)
        case _:
            return confidence_sample(decoder, start, embedding)
