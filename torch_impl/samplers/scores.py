"""Sampling by scores: every step remasks tokens that are unlikely, or that a critic finds wrong
(muse-maskgit-pytorch and open-muse's `generate`; token critic: Lezama et al. 2022, algorithm 2)."""

import torch
from torch import Tensor

from torch_impl.samplers.decoder import Decoder, Sampled, State, run_steps

KNOWN_SCORE = -1e5
LEAST_TEMPERATURE = 1e-10


def scores_sample(decoder: Decoder, start: Tensor, embedding: Tensor | None = None) -> Sampled:
    """Sample from `start` (B, L): every step masks the tokens with the highest scores and samples them."""
    options, steps, known = decoder.options, decoder.steps, start != decoder.mask_id
    counts = steps.masked[:, torch.sum(~known, 1)]  # (T, B)

    def step(k: int, state: State) -> tuple[State, Tensor, Tensor]:
        ids, scores, embedding = state
        masking = highest(torch.where(known, -torch.inf, scores), counts[k]) & ~known
        got = torch.where(masking, decoder.mask_id, ids)
        temperature = torch.clamp(steps.temperature[k], min=LEAST_TEMPERATURE)
        unknown = got == decoder.mask_id
        drawn, log_p, noise, embedding = decoder.predict(
            got, unknown, k, embedding, temperature=temperature, resample=options.legacy_scores
        )
        ids = torch.where(unknown, drawn, got)
        if decoder.predictor.critic is not None:
            scores = decoder.critic_scores(ids, steps.guidance[k])
            scores = scores + (noise["critic"] - 0.5) * steps.critic_noise[k]
        else:
            scores = 1 - torch.exp(log_p)
            if not options.legacy_scores and options.remask != "confidence":
                scores = torch.where(unknown, scores, KNOWN_SCORE)
        return (ids, scores, embedding), got, ids

    scores = torch.zeros(start.shape, dtype=steps.temperature.dtype, device=start.device)
    state = (start, scores, embedding)
    return run_steps(step, state, options.start_step, options.steps)[1]


def highest(scores: Tensor, counts: Tensor) -> Tensor:
    """Mask (B, L) of the `counts` (B,) highest scores."""
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    return torch.argsort(order, dim=1) < counts[:, None]
