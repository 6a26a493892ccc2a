"""Between 8-bit pictures and the numbers that the model sees."""

import torch
from torch import Tensor

from common.hparams.latents import LatentHParams
from common.plans.latents import LatentPlan


def normalise(
    images: Tensor, plan: LatentPlan, hparams: LatentHParams, dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 (B, H, W, C) -> [-1, 1] with the lowest bits cut off or, for the Bernoulli likelihood, 0 or 1."""
    if plan.likelihood == "bernoulli":
        return (images > 127).to(dtype)
    step = 2 ** (8 - hparams.data.num_bits)
    levels = torch.floor(images.to(dtype) / step) * step
    return (levels - 127.5) / 127.5


def to_uint8(x: Tensor, plan: LatentPlan) -> Tensor:
    """Pictures as `normalise` makes them (B, h, w, C) -> uint8, rounded, or cut off where the plan says."""
    levels = x * 255 if plan.likelihood == "bernoulli" else x * 127.5 + 127.5
    levels = levels.clamp(0, 255)
    return (levels.floor() if plan.truncates else levels.round()).to(torch.uint8)


def to_range(images: Tensor, pixel_range: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (B, H, W, C) -> [0, 1] ('unit') or [-1, 1] ('signed')."""
    x = images.to(dtype)
    return x / 255 if pixel_range == "unit" else x / 127.5 - 1


def from_range(x: Tensor, pixel_range: str) -> Tensor:
    """Pictures in [0, 1] or [-1, 1], (B, H, W, C) -> uint8, rounded; what lies outside is clamped."""
    levels = x * 255 if pixel_range == "unit" else x * 127.5 + 127.5
    return levels.round().clamp(0, 255).to(torch.uint8)
