"""Ancestral sampling of masked diffusion models (MDLM, Sahoo et al. 2024), with re-masking ReMDM (Wang et al.
2025)."""

import torch
from torch import Tensor

from torch_impl.samplers.decoder import Decoder, Sampled, State, run_steps


def ancestral_sample(decoder: Decoder, start: Tensor, embedding: Tensor | None = None) -> Sampled:
    """Sample from `start` (B, L): in every step each token is masked or not, independently of all others.
    Without re-masking the steps end when no token is masked."""
    options, steps, known = decoder.options, decoder.steps, start != decoder.mask_id

    def step(k: int, state: State) -> tuple[State, Tensor, Tensor]:
        ids, embedding = state
        unknown = ids == decoder.mask_id
        drawn, _, noise, embedding = decoder.predict(ids, unknown, k, embedding)
        masking = ~known & (noise["remask"] < torch.where(unknown, steps.stay[k], steps.remask[k]))
        return (torch.where(masking, decoder.mask_id, drawn), embedding), ids, drawn

    goes_on = None if options.remasks_at_random else decoder.has_masked
    return run_steps(step, (start, embedding), options.start_step, options.steps, goes_on)[1]
