"""Noise of the token samplers, generated step by step, since that of all steps would not fit into memory."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dioscuri.plans.noise import NoiseSpec

StepNoise = Callable[..., Mapping[str, Tensor]]
"""From a step's number to its noise by name; with positions (B, n), `tokens` (B, n, K) is for these only."""

_SMALLEST = 1e-20


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform noise on [0, 1)."""
    noise = torch.clamp(uniform, min=_SMALLEST)
    # In place, since these are the largest arrays of sampling.
    return noise.log_().neg_().clamp_(min=_SMALLEST).log_().neg_()


def step_noise(
    source: torch.Generator, specs: Sequence[NoiseSpec], dtype: torch.dtype = torch.float32
) -> StepNoise:
    """Noise of `step_noise_specs`, drawn from one generator for all steps."""

    def draw(step: int, positions: Tensor | None = None) -> dict[str, Tensor]:
        del step
        noise = {}
        for spec in specs:
            shape = noise_shape(spec, positions)
            uniform = torch.rand(shape, generator=source, device=source.device, dtype=dtype)
            noise[spec.name] = gumbel(uniform) if spec.kind == "gumbel" else uniform
        return noise

    return draw


def recorded_noise(arrays: Mapping[str, Tensor], specs: Sequence[NoiseSpec]) -> StepNoise:
    """Recorded noise of `step_noise_specs`: arrays (B, T, ...) of all T steps, by name."""

    def draw(step: int, positions: Tensor | None = None) -> dict[str, Tensor]:
        noise = {spec.name: arrays[spec.name][:, step] for spec in specs}
        if positions is not None:
            rows = torch.arange(len(positions), device=positions.device)[:, None]
            noise["tokens"] = noise["tokens"][rows, positions]
        return noise

    return draw


def noise_shape(spec: NoiseSpec, positions: Tensor | None) -> tuple[int, ...]:
    """Shape of an array of a step's noise; with positions (B, n), `tokens` is for these only."""
    if positions is None or spec.name != "tokens":
        return spec.shape
    return (*positions.shape, *spec.shape[2:])


def random_offsets(source: torch.Generator, batch: int, n_tokens: int) -> Tensor:
    """The start of each picture's Halton order: (B,) integers below `n_tokens`."""
    return torch.randint(n_tokens, (batch,), generator=source, device=source.device)


def random_tokens(source: torch.Generator, shape: tuple[int, int], codebook_size: int) -> Tensor:
    """Tokens (B, L), uniformly distributed."""
    return torch.randint(codebook_size, shape, generator=source, device=source.device)


def whole_numbers_below(uniform: Tensor, n: int) -> Tensor:
    """Integers below n, uniformly distributed, from uniform noise on [0, 1)."""
    return (uniform * n).to(torch.int64).clamp(max=n - 1)
