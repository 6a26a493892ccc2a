"""Conversion between stored pictures, sounds or clips and the model's values."""

import torch
from torch import Tensor

from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.protocols import LatentHParams
from dioscuri.hparams.sections import Data


def normalise(
    images: Tensor, plan: LatentPlan, hparams: LatentHParams, dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 (B, ..., C), or uint16 for 16-bit sounds, -> [-1, 1] without the lowest bits or, for the
    Bernoulli likelihood, 0 or 1."""
    if plan.likelihood == "bernoulli":
        return (images > 127).to(dtype)
    half, step = half_range(hparams.data), 2 ** (hparams.data.depth - hparams.data.num_bits)
    levels = torch.floor(images.to(dtype) / step) * step
    return (levels - half) / half


def to_levels(x: Tensor, plan: LatentPlan, hparams: LatentHParams) -> Tensor:
    """The inverse of `normalise`: (B, ..., C) -> uint8, or uint16 for 16-bit sounds, rounded or, if the plan
    says so, truncated."""
    half = half_range(hparams.data)
    levels = x * 2 * half if plan.likelihood == "bernoulli" else x * half + half
    levels = levels.clamp(0, 2 * half)
    levels = levels.floor() if plan.truncates else levels.round()
    return levels.to(torch.uint8 if hparams.data.depth == 8 else torch.uint16)


def half_range(data: Data) -> float:
    """Half of the highest stored value: 127.5 for 8 bits."""
    return (2**data.depth - 1) / 2


def to_range(images: Tensor, pixel_range: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (B, H, W, C) -> [0, 1] ('unit') or [-1, 1] ('signed')."""
    x = images.to(dtype)
    return x / 255 if pixel_range == "unit" else x / 127.5 - 1


def from_range(x: Tensor, pixel_range: str) -> Tensor:
    """Pictures in [0, 1] or [-1, 1], (B, H, W, C) -> uint8, rounded and clamped."""
    levels = x * 255 if pixel_range == "unit" else x * 127.5 + 127.5
    return levels.round().clamp(0, 255).to(torch.uint8)
