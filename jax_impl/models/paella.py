"""Encoder and decoder of Paella's tokenizer (Rampas et al. 2022), for `jax_impl.models.vqgan`.

The batch norm after the original's encoder is folded into its last convolution.
"""

from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.vqgan.plan import TokenizerPlan
from jax_impl.layers.dense import Linear
from jax_impl.layers.paella import Doubling, Halving, ModulatedBlock
from jax_impl.layers.stack import call


class PaellaEncoder(nnx.Module):
    """(B, H, W, C) -> (B, h, w, z_channels)."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        widths = [level.width for level in plan.encoder]
        self.conv_in = Linear(4 * plan.channels, widths[0])
        self.down = nnx.List(
            [_level(1, width, Halving(widths[i - 1], width) if i else None) for i, width in enumerate(widths)]
        )
        self.conv_out = Linear(widths[-1], plan.options.z_channels)
        self.recomputed = recomputed

    def __call__(self, x: Array, noise: object = None) -> Array:
        """There is no dropout, so the noise is not read."""
        del noise
        x = self.conv_in(rearrange(x, "b (h s) (w t) c -> b h w (c s t)", s=2, t=2))
        for level in self.down:
            x = level["resample"](x) if "resample" in level else x
            x = _through(level["blocks"], x, self.recomputed)
        return self.conv_out(x)


class PaellaDecoder(nnx.Module):
    """(B, h, w, z_channels) -> (B, H / 2, W / 2, F), the input of the last convolution, which makes
    2x2 pixels of each position."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        widths = [level.width for level in plan.decoder]
        n, last = plan.options.num_res_blocks, len(widths) - 1
        self.conv_in = Linear(plan.options.z_channels, widths[-1])
        self.up = nnx.List(
            [
                _level(n if i == last else 1, width, Doubling(width, widths[i - 1]) if i else None)
                for i, width in enumerate(widths)
            ]
        )
        self.conv_out = Linear(widths[0], 4 * plan.channels)
        self.recomputed = recomputed

    def __call__(self, x: Array, noise: object = None, codes: Array | None = None) -> Array:
        """Without dropout, and without modulation by the codes."""
        del noise, codes
        x = self.conv_in(x)
        for level in reversed(self.up):
            x = _through(level["blocks"], x, self.recomputed)
            x = level["resample"](x) if "resample" in level else x
        return x


def _level(n: int, width: int, resample: nnx.Module | None) -> nnx.Dict:
    blocks = nnx.List([ModulatedBlock(width) for _ in range(n)])
    return nnx.Dict({"blocks": blocks} | ({} if resample is None else {"resample": resample}))


def _through(blocks: nnx.List, x: Array, recomputed: bool) -> Array:
    for block in blocks:
        x = call(block, x, checkpoint=recomputed)
    return x
