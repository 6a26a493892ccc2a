"""One entry for all samplers of tokens."""

from collections.abc import Callable

from jax import Array

from dioscuri.families.maskgit.decoding import Steps, positions_to_predict
from dioscuri.families.token_models.masking_options import Sampling
from jax_impl.samplers.confidence import confidence_sample
from jax_impl.samplers.decoder import Condition, Critic, Network, Sampled, make_decoder, steps_beside
from jax_impl.samplers.halton import halton_confidence_sample, halton_sample
from jax_impl.samplers.noise import StepNoise
from jax_impl.samplers.scores import scores_sample


def sample_tokens(
    network: Network,
    start: Array,
    draw: StepNoise,
    steps: Steps,
    options: Sampling,
    codebook_size: int,
    mask_id: int,
    *,
    condition: Condition,
    null: Condition | None = None,
    critic: Critic | None = None,
    prepare: Callable[[Condition], Condition] | None = None,
    embedding: Array | None = None,
    offsets: Array | None = None,
    every_step: bool = False,
) -> Sampled:
    """Sample the tokens that are `mask_id` in `start` (B, L).

    `steps` come from `make_steps`, `draw(k, positions)` gives the noise of a step. Under guidance `null`
    holds what stands for no condition, and the network gets both halves in one call. `prepare` computes once
    what the network needs of the condition in all steps (`model.prepare`). `embedding` (B, L', C), zeros:
    self-conditioning. `critic`: for the scores sampler. `offsets` (B,): for the Halton sampler's `randomize`.
    `every_step`: `drawn` is the guess of the whole with the Halton sampler, too, else there what it wrote.
    """
    needed = positions_to_predict(options, start.shape[1], every_step=every_step)
    steps = steps_beside(steps, start)
    decoder = make_decoder(
        network,
        options,
        codebook_size,
        mask_id,
        condition,
        null,
        critic,
        prepare,
        steps,
        draw,
        needed,
    )
    match options.sampler:
        case "halton":
            return halton_sample(decoder, start, embedding, offsets)
        case "halton_confidence":
            return halton_confidence_sample(decoder, start, embedding)
        case "scores":
            return scores_sample(decoder, start, embedding)
        case _:
            return confidence_sample(decoder, start, embedding)
