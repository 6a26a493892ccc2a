"""Encoder and decoder of Paella's tokenizer (Rampas et al. 2022), for `torch_impl.models.vqgan`.

The batch norm after the original's encoder is folded into its last convolution.
"""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.vqgan.plan import TokenizerPlan
from torch_impl.layers.paella import Doubling, Halving, ModulatedBlock
from torch_impl.layers.stack import call


class PaellaEncoder(nn.Module):
    """(B, C, H, W) -> (B, z_channels, h, w)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        widths = [level.width for level in plan.encoder]
        self.conv_in = nn.Conv2d(4 * plan.channels, widths[0], 1)
        self.down: Any = nn.ModuleList(
            _level(1, width, Halving(widths[i - 1], width) if i else None) for i, width in enumerate(widths)
        )
        self.conv_out = nn.Conv2d(widths[-1], plan.options.z_channels, 1)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: object = None) -> Tensor:
        """There is no dropout, so the noise is not read."""
        del noise
        x = self.conv_in(F.pixel_unshuffle(x, 2))
        x = rearrange(x, "b c h w -> b h w c")
        for level in self.down:
            x = level["resample"](x) if "resample" in level else x
            x = _through(level["blocks"], x, self.recomputed)
        return self.conv_out(rearrange(x, "b h w c -> b c h w"))


class PaellaDecoder(nn.Module):
    """(B, z_channels, h, w) -> (B, F, H / 2, W / 2), the input of the last convolution, which makes
    2x2 pixels of each position."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        widths = [level.width for level in plan.decoder]
        n, last = plan.options.num_res_blocks, len(widths) - 1
        self.conv_in = nn.Conv2d(plan.options.z_channels, widths[-1], 1)
        self.up: Any = nn.ModuleList(
            _level(n if i == last else 1, width, Doubling(width, widths[i - 1]) if i else None)
            for i, width in enumerate(widths)
        )
        self.conv_out = nn.Conv2d(widths[0], 4 * plan.channels, 1)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: object = None, codes: Tensor | None = None) -> Tensor:
        """Without dropout, and without modulation by the codes."""
        del noise, codes
        x = rearrange(self.conv_in(x), "b c h w -> b h w c")
        for level in reversed(self.up):
            x = _through(level["blocks"], x, self.recomputed)
            x = level["resample"](x) if "resample" in level else x
        return rearrange(x, "b h w c -> b c h w")


def _level(n: int, width: int, resample: nn.Module | None) -> nn.ModuleDict:
    blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(n))
    return nn.ModuleDict({"blocks": blocks} | ({} if resample is None else {"resample": resample}))


def _through(blocks: nn.ModuleList, x: Tensor, recomputed: bool) -> Tensor:
    for block in blocks:
        x = call(block, x, checkpoint=recomputed)
    return x
