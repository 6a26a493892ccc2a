"""Encoder and decoder of the VQ-VAE of Metroplex's later program, for `jax_impl.models.vqgan`."""

from einops import reduce
from flax import nnx
from jax import Array

from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.families.vqgan.residual_tokenizers import ResidualBlock
from jax_impl.layers.cells import ResidualCell
from jax_impl.layers.convolution import Conv
from jax_impl.layers.dense import Linear
from jax_impl.layers.stack import call
from jax_impl.models.metroplex_blocks import with_channels


class ResidualEncoder(nnx.Module):
    """(B, H, W, C) -> (B, h, w, z_channels)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        assert plan.residual is not None
        blocks = plan.residual.encoder
        self.conv_in = Conv(plan.channels, blocks[0].cell.in_channels, (3, 3))
        self.blocks = nnx.List([Pooled(block) for block in blocks])
        self.recomputed = recomputed

    def __call__(self, x: Array, noise: object = None) -> Array:
        """There is no dropout, so the noise is not read."""
        del noise
        return _through(self.blocks, self.conv_in(x), self.recomputed)


class ResidualDecoder(nnx.Module):
    """(B, h, w, z_channels) -> (B, H, W, F), the input of the last convolution."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        assert plan.residual is not None
        blocks, width = plan.residual.decoder, plan.residual.width
        self.conv_in = Conv(width, width, (3, 3))
        self.blocks = nnx.List([Enlarged(block) for block in blocks])
        self.conv_out = Linear(blocks[-1].out_channels, plan.channels)
        self.recomputed = recomputed

    def __call__(self, x: Array, noise: object = None, codes: Array | None = None) -> Array:
        """Without dropout, and without modulation by the codes."""
        del noise, codes
        return _through(self.blocks, self.conv_in(x), self.recomputed)


class Pooled(ResidualCell):
    """A cell, average pooling, then channels cut off or zero ones added: (B, H, W, C) -> (B, h, w, O)."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__(block.cell)
        self.block = block

    def __call__(self, x: Array) -> Array:
        x, factor = super().__call__(x), self.block.factor
        x = reduce(x, "b (h s) (w t) c -> b h w c", "mean", s=factor, t=factor) if factor > 1 else x
        return with_channels(x, self.block.out_channels)


class Enlarged(ResidualCell):
    """A cell, channels cut off or zero ones added, then upsampling: (B, h, w, C) -> (B, H, W, O)."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__(block.cell)
        self.block = block

    def __call__(self, x: Array) -> Array:
        x, factor = with_channels(super().__call__(x), self.block.out_channels), self.block.factor
        return x.repeat(factor, 1).repeat(factor, 2) if factor > 1 else x


def _through(blocks: nnx.List, x: Array, recomputed: bool) -> Array:
    for block in blocks:
        x = call(block, x, checkpoint=recomputed)
    return x
