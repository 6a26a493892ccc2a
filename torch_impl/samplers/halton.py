"""Samplers of Halton-MaskGIT (Besnier et al. 2025): tokens in a fixed order, and the confidence sampler with
which the paper compares it."""

from math import isqrt

import torch
from torch import Tensor

from dioscuri.families.maskgit.halton import halton_order
from torch_impl.samplers.decoder import Decoder, Sampled, State, run_steps


def halton_sample(
    decoder: Decoder,
    start: Tensor,
    embedding: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Sampled:
    """Sample from `start` (B, L): every step writes the next unknown positions of the Halton order,
    until all are written.

    `offsets` (B,): offsets by which each picture's order is rolled.
    """
    options, steps, unknown = decoder.options, decoder.steps, start == decoder.mask_id
    number = unknown.sum(1)
    # (1 + steps, B): number of masked tokens before the first step and after each.
    left = torch.cat([number[None], steps.masked[options.start_step :, number]])
    ranks = ranks_of_unknown(unknown, decoder.predictor.shape, offsets)

    def step(k: int, state: State) -> tuple[State, Tensor, Tensor]:
        ids, embedding = state
        first, last = (number - left[k - options.start_step + i] for i in (0, 1))
        written = unknown & (ranks >= first[:, None]) & (ranks < last[:, None])
        drawn, _, _, embedding = decoder.predict(ids, written, k, embedding, resample=True)
        return (torch.where(written, drawn, ids), embedding), ids, drawn

    state, sampled = run_steps(
        step, (start, embedding), options.start_step, options.steps, decoder.has_masked
    )
    return sampled._replace(tokens=_codes(state[0], decoder))


def ranks_of_unknown(unknown: Tensor, shape: tuple[int, ...] = (), offsets: Tensor | None = None) -> Tensor:
    """Number of unknown positions before each in the Halton order: (B, L), for pictures whose tokens have
    this shape, or else lie on a square grid."""
    L = unknown.shape[1]
    order = torch.as_tensor(halton_order(shape or (isqrt(L),) * 2), device=unknown.device)
    place = torch.argsort(order)[None]  # (1, L): rank of each position
    if offsets is not None:
        place = (place + offsets[:, None]) % L
    place = place.expand(unknown.shape)
    in_order = torch.gather(unknown, 1, torch.argsort(place, dim=1))
    before = torch.cumsum(in_order, dim=1) - in_order.to(torch.int64)
    return torch.gather(before, 1, place)


def halton_confidence_sample(decoder: Decoder, start: Tensor, embedding: Tensor | None = None) -> Sampled:
    """Sample from `start` (B, L): every step writes the most confident positions, known ones first."""
    options, steps, known = decoder.options, decoder.steps, start != decoder.mask_id
    counts = steps.masked[:, torch.sum(~known, 1)]  # (T, B)

    def step(k: int, state: State) -> tuple[State, Tensor, Tensor]:
        ids, embedding = state
        drawn, log_p, noise, embedding = decoder.predict(ids, ~known, k, embedding, resample=True)
        confidence = log_p + steps.temperature[k] * noise["confidence"]
        confidence = torch.where(ids == decoder.mask_id, confidence, torch.inf)
        order = torch.argsort(confidence, dim=1, stable=True)
        most_confident = torch.argsort(order, dim=1) >= counts[k][:, None]
        return (torch.where(most_confident & ~known, drawn, ids), embedding), ids, drawn

    state, sampled = run_steps(step, (start, embedding), options.start_step, options.steps)
    return sampled._replace(tokens=_codes(state[0], decoder))


def _codes(ids: Tensor | None, decoder: Decoder) -> Tensor:
    """Ids with sampled mask tokens replaced by the last code."""
    assert ids is not None
    return torch.clamp(ids, max=decoder.predictor.codebook_size - 1)
