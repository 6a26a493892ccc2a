"""Encoder and decoder of the VQ-VAE of Metroplex's later program, for `torch_impl.models.vqgan`."""

import torch.nn.functional as F
from torch import Tensor, nn

from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.families.vqgan.residual_tokenizers import ResidualBlock
from torch_impl.layers.cells import ResidualCell
from torch_impl.layers.stack import call
from torch_impl.models.metroplex_blocks import with_channels


class ResidualEncoder(nn.Module):
    """(B, C, H, W) -> (B, z_channels, h, w)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        assert plan.residual is not None
        blocks = plan.residual.encoder
        self.conv_in = nn.Conv2d(plan.channels, blocks[0].cell.in_channels, 3, padding=1)
        self.blocks = nn.ModuleList(Pooled(block) for block in blocks)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: object = None) -> Tensor:
        """There is no dropout, so the noise is not read."""
        del noise
        return _through(self.blocks, self.conv_in(x), self.recomputed)


class ResidualDecoder(nn.Module):
    """(B, z_channels, h, w) -> (B, F, H, W), the input of the last convolution."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        super().__init__()
        assert plan.residual is not None
        blocks, width = plan.residual.decoder, plan.residual.width
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(Enlarged(block) for block in blocks)
        self.conv_out = nn.Conv2d(blocks[-1].out_channels, plan.channels, 1)
        self.recomputed = recomputed

    def forward(self, x: Tensor, noise: object = None, codes: Tensor | None = None) -> Tensor:
        """Without dropout, and without modulation by the codes."""
        del noise, codes
        return _through(self.blocks, self.conv_in(x), self.recomputed)


class Pooled(ResidualCell):
    """A cell, average pooling, then channels cut off or zero ones added: (B, C, H, W) -> (B, O, h, w)."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__(block.cell)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = F.avg_pool2d(x, self.block.factor) if self.block.factor > 1 else x
        return with_channels(x, self.block.out_channels)


class Enlarged(ResidualCell):
    """A cell, channels cut off or zero ones added, then upsampling: (B, C, h, w) -> (B, O, H, W)."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__(block.cell)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        x, factor = with_channels(super().forward(x), self.block.out_channels), self.block.factor
        return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3) if factor > 1 else x


def _through(blocks: nn.ModuleList, x: Tensor, recomputed: bool) -> Tensor:
    for block in blocks:
        x = call(block, x, checkpoint=recomputed)
    return x
