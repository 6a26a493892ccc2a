"""Layers of DC-VAE (Parmar et al. 2021) with codes, as in Metroplex's later program.

Most kernels are divided by their largest singular value (Miyato et al. 2018), estimated by a power iteration.
Its vectors are buffers; the generator's singular values are parameters that the engine overwrites.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table

STEM = 64
"""Width of the encoder's first convolution."""
HIDDEN = 32
"""Channels of a global head before its last layer."""
LAST = 4
"""Side of the discriminator's last map."""


@dataclass(frozen=True)
class SpectralBlock:
    """Two convolutions and a shortcut; `halves` or, in the decoder, `doubles` the resolution."""

    inputs: int
    outputs: int
    halves: bool = False
    doubles: bool = False


@dataclass(frozen=True)
class SpectralStacks:
    """Blocks of encoder and decoder in order of execution; `biased`: convolutions have biases."""

    encoder: tuple[SpectralBlock, ...]
    decoder: tuple[SpectralBlock, ...]
    biased: bool


@dataclass(frozen=True)
class Head:
    """A head of the discriminator on a map with side `side`."""

    side: int
    channels: int


@dataclass(frozen=True)
class ContrastPlan:
    """A discriminator; `tapped` holds, for each block, the side of its input, which heads may read."""

    blocks: tuple[SpectralBlock, ...]
    tapped: tuple[int, ...]
    adversarial: tuple[Head, ...]
    patches: tuple[Head, ...]
    globals: tuple[Head, ...]
    embedding: int
    biased: bool


def spectral_stacks(widths: Sequence[int], n_blocks: int, *, biased: bool) -> SpectralStacks:
    """A generator with levels of these widths, finest first, and `n_blocks` blocks per level."""
    up: list[SpectralBlock] = []
    reached = widths[-1]
    for level in reversed(range(len(widths))):
        for j in range(n_blocks):
            doubles = level > 0 and j == n_blocks - 1
            up.append(SpectralBlock(reached, widths[level], doubles=doubles))
            reached = widths[level]
    return SpectralStacks(_shrinking(STEM, widths, n_blocks), tuple(up), biased)


def contrast_plan(
    widths: Sequence[int],
    n_blocks: int,
    heads: tuple[Sequence[int], Sequence[int]],
    resolution: int,
    channels: int,
    *,
    biased: bool,
) -> ContrastPlan:
    """A discriminator with levels of these widths; `heads`: sides of the
    adversarial and contrastive heads."""
    sides = [resolution >> level for level in range(len(widths))]
    if not widths or sides[-1] != LAST or sides[0] != LAST << (len(widths) - 1):
        raise UserError(
            f"[discriminator] widths has {len(widths)} levels: halving {resolution} pixels down to {LAST} "
            "needs one per side, such as [32, 48] for 8 pixels"
        )
    blocks = _shrinking(channels, widths, n_blocks)
    tapped = tuple(side if j == 0 else 0 for side in sides for j in range(n_blocks))
    known = {1: 1} | {side: block.inputs for side, block in zip(tapped, blocks, strict=True) if side}
    for name, chosen in zip(("gan_resos", "contra_resos"), heads, strict=True):
        for side in chosen:
            if side not in known:
                raise UserError(f"[discriminator] {name} has {side}: only sides {sorted(known)} exist")
    adversarial, contrastive = ([Head(side, known[side]) for side in chosen] for chosen in heads)
    wide = tuple(head for head in contrastive if head.side > 1)
    return ContrastPlan(blocks, tapped, tuple(adversarial), tuple(contrastive), wide, widths[0], biased)


def generator_table(stacks: SpectralStacks, channels: int, codebook: Table) -> Table:
    """Every parameter of encoder, codes and decoder; `sigma` are the encoder's singular values."""
    table = _convolution("encoder.conv_in", channels, STEM, 3, biased=stacks.biased)
    table |= _blocks("encoder.blocks", stacks.encoder, biased=stacks.biased)
    for name in generator_layers(stacks):
        table[f"{name}.sigma"] = Parameter((1,), ONES, decays=False)
    table |= codebook
    for n, block in enumerate(stacks.decoder):
        name = f"decoder.blocks.{n}"
        table |= _convolution(f"{name}.conv1", block.inputs, block.outputs, 3, biased=stacks.biased)
        table |= _convolution(f"{name}.conv2", block.outputs, block.outputs, 3, biased=stacks.biased)
    last = stacks.decoder[-1].outputs
    return table | _convolution("decoder.conv_out", last, channels, 1, biased=stacks.biased)


def generator_layers(stacks: SpectralStacks) -> dict[str, int]:
    """Names and output channels of the spectrally normalised layers."""
    return {"encoder.conv_in": STEM} | _layers("encoder.blocks", stacks.encoder)


def contrast_table(plan: ContrastPlan) -> Table:
    """Every parameter of the discriminator; heads always have biases."""
    table = _blocks("blocks", plan.blocks, biased=plan.biased)
    table |= _convolution("last", plan.blocks[-1].outputs, 1, 1, biased=plan.biased)
    for name, inputs, outputs in _heads(plan):
        table |= _convolution(name, inputs, outputs, 1, biased=True)
    return table


def contrast_layers(plan: ContrastPlan) -> dict[str, int]:
    """Names and output channels of the discriminator's layers, all of which are spectrally normalised."""
    heads = {name: outputs for name, _, outputs in _heads(plan)}
    return _layers("blocks", plan.blocks) | {"last": 1} | heads


def power_buffers(prefix: str, layers: dict[str, int], *, values: bool) -> Table:
    """Vectors `u.<layer>` of the power iteration and, with `values`, the singular values `sigma.<layer>`."""
    table = {f"u.{prefix}{name}": Parameter((n,), Init("normal")) for name, n in layers.items()}
    if values:
        table |= {f"sigma.{prefix}{name}": Parameter((1,), ONES) for name in layers}
    return table


def _shrinking(inputs: int, widths: Sequence[int], n_blocks: int) -> tuple[SpectralBlock, ...]:
    blocks: list[SpectralBlock] = []
    for level, width in enumerate(widths):
        for j in range(n_blocks):
            halves = level < len(widths) - 1 and j == n_blocks - 1
            blocks.append(SpectralBlock(inputs, width, halves=halves))
            inputs = width
    return tuple(blocks)


def _heads(plan: ContrastPlan) -> list[tuple[str, int, int]]:
    """(name, input channels, output channels)."""
    heads = [(f"adversarial.{head.side}", head.channels, 1) for head in plan.adversarial]
    heads += [(f"patches.{head.side}", head.channels, plan.embedding) for head in plan.patches]
    for head in plan.globals:
        heads.append((f"globals.{head.side}.hidden", head.channels, HIDDEN))
        heads.append((f"globals.{head.side}.output", HIDDEN * head.side**2, plan.embedding))
    return heads


def _blocks(name: str, blocks: Sequence[SpectralBlock], *, biased: bool) -> Table:
    table: Table = {}
    for n, block in enumerate(blocks):
        second = 4 if block.halves else 3
        table |= _convolution(f"{name}.{n}.conv1", block.inputs, block.outputs, 3, biased=biased)
        table |= _convolution(f"{name}.{n}.conv2", block.outputs, block.outputs, second, biased=biased)
        table |= _convolution(f"{name}.{n}.shortcut", block.inputs, block.outputs, 1, biased=biased)
    return table


def _layers(name: str, blocks: Sequence[SpectralBlock]) -> dict[str, int]:
    return {
        f"{name}.{n}.{layer}": block.outputs
        for n, block in enumerate(blocks)
        for layer in ("conv1", "conv2", "shortcut")
    }


def _convolution(name: str, inputs: int, outputs: int, side: int, *, biased: bool) -> Table:
    table = {f"{name}.weight": Parameter((outputs, inputs, side, side), Init("fan_in_uniform", 3**0.5))}
    if biased:
        table[f"{name}.bias"] = Parameter((outputs,), ZEROS, decays=False)
    return table
