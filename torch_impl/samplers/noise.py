"""Noise of the samplers of tokens, drawn step by step: that of all steps would not fit into memory."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from common.plans.noise import Draw

Draws = Callable[[int], Mapping[str, Tensor]]
"""From the number of a step to its noise by name."""

_SMALLEST = 1e-20


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise of uniforms on [0, 1)."""
    return -torch.log(torch.clamp(-torch.log(torch.clamp(uniform, min=_SMALLEST)), min=_SMALLEST))


def step_noise(source: torch.Generator, draws: Sequence[Draw], dtype: torch.dtype = torch.float32) -> Draws:
    """Noise of `step_draws`, from a generator that goes on from step to step."""

    def draw(step: int) -> dict[str, Tensor]:
        del step
        noise = {}
        for spec in draws:
            uniform = torch.rand(spec.shape, generator=source, device=source.device, dtype=dtype)
            noise[spec.name] = gumbel(uniform) if spec.kind == "gumbel" else uniform
        return noise

    return draw


def random_offsets(source: torch.Generator, batch: int, n_tokens: int) -> Tensor:
    """Where the Halton order begins, for each picture: (B,) whole numbers below `n_tokens`."""
    return torch.randint(n_tokens, (batch,), generator=source, device=source.device)


def random_tokens(source: torch.Generator, shape: tuple[int, int], codebook_size: int) -> Tensor:
    """Tokens (B, L), each equally likely."""
    return torch.randint(codebook_size, shape, generator=source, device=source.device)
