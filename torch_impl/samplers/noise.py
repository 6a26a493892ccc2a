"""Noise of the samplers of tokens, drawn step by step: that of all steps would not fit into memory."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dioscuri.plans.noise import NoiseSpec

StepNoise = Callable[..., Mapping[str, Tensor]]
"""From the number of a step to its noise by name; `tokens` (B, n, K) of the positions (B, n), if given."""

_SMALLEST = 1e-20


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise of uniforms on [0, 1)."""
    noise = torch.clamp(uniform, min=_SMALLEST)
    # In place: the largest arrays of sampling.
    return noise.log_().neg_().clamp_(min=_SMALLEST).log_().neg_()


def step_noise(
    source: torch.Generator, specs: Sequence[NoiseSpec], dtype: torch.dtype = torch.float32
) -> StepNoise:
    """Noise of `step_noise_specs`, from a generator that goes on from step to step."""

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
    """Noise of `step_noise_specs` that was drawn before: arrays (B, T, ...) of all T steps, by name."""

    def draw(step: int, positions: Tensor | None = None) -> dict[str, Tensor]:
        noise = {spec.name: arrays[spec.name][:, step] for spec in specs}
        if positions is not None:
            rows = torch.arange(len(positions), device=positions.device)[:, None]
            noise["tokens"] = noise["tokens"][rows, positions]
        return noise

    return draw


def noise_shape(spec: NoiseSpec, positions: Tensor | None) -> tuple[int, ...]:
    """Shape of an array of a step's noise, of the tokens at positions (B, n) alone if these are given."""
    if positions is None or spec.name != "tokens":
        return spec.shape
    return (*positions.shape, *spec.shape[2:])


def random_offsets(source: torch.Generator, batch: int, n_tokens: int) -> Tensor:
    """Where the Halton order begins, for each picture: (B,) whole numbers below `n_tokens`."""
    return torch.randint(n_tokens, (batch,), generator=source, device=source.device)


def random_tokens(source: torch.Generator, shape: tuple[int, int], codebook_size: int) -> Tensor:
    """Tokens (B, L), each equally likely."""
    return torch.randint(codebook_size, shape, generator=source, device=source.device)


def whole_numbers_below(uniform: Tensor, n: int) -> Tensor:
    """Whole numbers below n, each equally likely, from uniforms on [0, 1)."""
    return (uniform * n).to(torch.int64).clamp(max=n - 1)
