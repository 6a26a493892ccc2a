"""The plan of a model with latent groups, as far as objectives, samplers and synthesis modes use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol

from dioscuri.errors import UserError
from dioscuri.plans.noise import NoiseSpec

Likelihood = Literal["mixture_of_logistics", "bernoulli", "absolute"]


class LatentBlock(Protocol):
    """A top-down block: its latents (B, *grid, variates), its level and its width."""

    @property
    def grid(self) -> tuple[int, ...]: ...

    @property
    def variates(self) -> int: ...

    @property
    def level(self) -> int: ...

    @property
    def channels(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class LatentPlan:
    """Examples, output layer and latent groups. Latent group `l` belongs to `down[l]`.

    Examples are pictures or, in families other than the hierarchical VAE, sounds or clips.
    """

    resolution: int
    channels: int
    crop: int  # pixels of padding on each side, excluded from losses and outputs
    likelihood: Likelihood
    n_mixtures: int
    n_levels: int
    num_classes: int = 0  # 0: no class condition

    @property
    def groups(self) -> Sequence[LatentBlock]:
        """Blocks with latents, in order of execution."""
        raise NotImplementedError

    @property
    def couples_channels(self) -> bool:
        """Whether the mixture of logistics conditions green on red, and blue on both."""
        return self.channels == 3

    @property
    def truncates(self) -> bool:
        """Whether pixels are truncated to integer levels, as in VD-VAE, instead of rounded."""
        return False

    @property
    def extent(self) -> tuple[int, ...]:
        """Extent of the model's input: (H, W), (samples,) or (frames, H, W)."""
        return (self.resolution, self.resolution)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape (*extent, C) without padding, as in losses and outputs."""
        return (*(length - 2 * self.crop for length in self.extent), self.channels)

    @property
    def image_dims(self) -> int:
        """Number of values in `image_shape`."""
        return prod(self.image_shape)

    def latent_shape(self, group: int, batch: int) -> tuple[int, ...]:
        """(B, *grid, Z) of a latent group."""
        block = self.groups[group]
        return (batch, *block.grid, block.variates)

    def latent_dims(self, group: int) -> int:
        """Number of latent values of a group."""
        return prod(self.latent_shape(group, 1))

    def latent_noise(self, batch: int, *, prior: bool, posterior: bool) -> tuple[NoiseSpec, ...]:
        """Noise `prior.<l>` and `posterior.<l>` of a pass, group by group, the prior's first."""
        kinds = [name for name, included in (("prior", prior), ("posterior", posterior)) if included]
        return tuple(
            NoiseSpec(f"{kind}.{group}", "normal", self.latent_shape(group, batch))
            for group in range(len(self.groups))
            for kind in kinds
        )

    def output_noise(self, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise for sampling the output layer, on the uncropped (mixture) or cropped (Bernoulli) grid."""
        if self.likelihood == "absolute":
            return ()
        if self.likelihood == "bernoulli":
            return (NoiseSpec("pixel", "uniform", (batch, *self.image_shape)),)
        low, high = 1e-5, 1 - 1e-5
        return (
            NoiseSpec("mixture", "uniform", (batch, *self.extent, self.n_mixtures), low, high),
            NoiseSpec("logistic", "uniform", (batch, *self.extent, self.channels), low, high),
        )


def mixture_channels(n_mixtures: int, channels: int) -> int:
    """Output channels of the mixture: logits, then per channel means, log scales
    and, for RGB, coefficients."""
    return n_mixtures * (1 + channels * (3 if channels == 3 else 2))


def level_temperatures(plan: LatentPlan, setting: float | tuple) -> tuple[float, ...]:
    """Temperature of every latent group from a setting: one number, one per level or group, or
    ('linear', a, b).

    The linear ramp is a + i (b - a) / n for level i of n: as in the original, b is never reached.
    """
    n = plan.n_levels
    if isinstance(setting, int | float):
        levels = [float(setting)] * n
    elif len(setting) == 3 and setting[0] == "linear":
        _, start, end = setting
        levels = [start + i * (end - start) / n for i in range(n)]
    elif len(setting) in (n, len(plan.groups)) and all(isinstance(value, int | float) for value in setting):
        levels = [float(value) for value in setting]
    else:
        raise UserError(
            f"[synthesis] temperature_settings: {setting!r} must be a number, {n} numbers (one per level), "
            f"{len(plan.groups)} numbers (one per latent group), or ('linear', first, last)"
        )
    if len(levels) == n:
        return tuple(levels[block.level] for block in plan.groups)
    return tuple(levels)
