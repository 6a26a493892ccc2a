"""SUNDAE's samplers (Savinov et al. 2022, section 3): they start from random tokens and resample them
until a step changes nothing."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dioscuri.families.sundae.denoising_options import Resampling
from dioscuri.families.sundae.training import SamplingSchedule
from torch_impl.layers.precision import at_least_float32
from torch_impl.samplers.choice import draw_tokens, filtered, inverse_cdf_sample
from torch_impl.samplers.noise import StepNoise
from torch_impl.samplers.scores import LEAST_TEMPERATURE, highest

Denoise = Callable[[Tensor], Tensor]
"""ids (B, L) -> logits (B, L, K)."""


class Resampled(NamedTuple):
    """`tokens` (B, L); `steps` (T, B, L), the tokens after every step, where without `every_step` T is 0; and
    `taken` (B,), the number of steps after which a picture was finished."""

    tokens: Tensor
    steps: Tensor
    taken: Tensor


def resample_tokens(
    network: Denoise,
    start: Tensor,
    draw: StepNoise,
    steps: SamplingSchedule,
    options: Resampling,
    known: Tensor | None = None,
    *,
    every_step: bool = False,
) -> Resampled:
    """Resample tokens, from `start` (B, L) on, except those that are `known` (B, L).

    `steps` comes from `make_sampling_schedule`; `draw(k)` returns the noise of a step, whose uniform `tokens`
    (B, L) may be replaced by Gumbel noise (B, L, K). A finished picture does not change; the loop ends when
    all are finished, and the remaining steps of `every_step` repeat the last one.
    """
    steps = SamplingSchedule(*[torch.as_tensor(value, device=start.device) for value in steps])
    known = torch.zeros_like(start, dtype=torch.bool) if known is None else known
    tokens, stopped = start, torch.zeros_like(start[:, 0], dtype=torch.bool)
    least = options.min_steps if options.early_stop else options.steps
    taken = torch.zeros_like(start[:, 0], dtype=torch.int32)
    history: list[Tensor] = []
    propose = argmax_unrolled_step if options.sampler == "argmax_unrolled" else ancestral_step
    for k in range(options.steps):
        if bool(stopped.all()):
            break
        taken = taken + ~stopped
        proposal, full = propose(network, tokens, known, draw, steps, options, k)
        same = (full if options.stop_rule == "unmasked" else proposal) == tokens
        if k >= least:
            stopped = stopped | (same | known).all(1)
        tokens = torch.where(stopped[:, None], tokens, proposal)
        history.append(tokens)
    if not every_step:
        return Resampled(tokens, tokens[None, :0, :0], taken)
    history += [tokens] * (options.steps - len(history))
    return Resampled(tokens, torch.stack(history), taken)


def ancestral_step(
    network: Denoise,
    tokens: Tensor,
    known: Tensor,
    draw: StepNoise,
    steps: SamplingSchedule,
    options: Resampling,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Tokens with a random fraction resampled, and with all of them resampled, both (B, L)."""
    logits, noise = at_least_float32(network(tokens)), draw(k)
    temperature = steps.temperature[k].clamp(min=LEAST_TEMPERATURE)
    by = inverse_cdf_sample if noise["tokens"].ndim == tokens.ndim else draw_tokens
    full = by(filtered(logits, options, k, steps.top_p) / temperature, noise["tokens"])
    unchanged = (noise["update"] > steps.proportion[k]) | known
    return torch.where(unchanged, tokens, full), full


def argmax_unrolled_step(
    network: Denoise,
    tokens: Tensor,
    known: Tensor,
    draw: StepNoise,
    steps: SamplingSchedule,
    options: Resampling,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Argmax-unrolled decoding: the most likely tokens, of which the least certain are predicted a second
    time; returned twice, (B, L)."""
    del draw, options
    sure, first = torch.log_softmax(at_least_float32(network(tokens)), -1).max(-1)
    first = torch.where(known, tokens, first)
    again = network(first).argmax(-1)
    uncertainty = torch.where(known, -torch.inf, -sure)
    count = torch.round(steps.proportion[k] * (~known).sum(1))
    uncertain = highest(uncertainty, count) & ~known
    proposal = torch.where(uncertain, again, first)
    return proposal, proposal
