"""Bits-back coding (Townsend, Bird, Barber 2019) of a hierarchy of latents (HiLLoC, Townsend et al. 2020).

To encode, bits of the message choose latents from the posterior, group by group from the top, each given
those before; then the picture is written given the latents, and the latents given the prior. The decoder
reads latents and picture, and writes back the bits that chose the latents. The net length of a picture is
-ELBO in bits on average, and the first one needs as many bits to begin with as its latents take.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dioscuri.compression import latents, levels
from dioscuri.compression.latents import MAX_BITS, Normal
from dioscuri.compression.levels import Scale
from dioscuri.compression.rans import Coder
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.hparams.sections import Data

Arrays = dict[str, Any]
Run = Callable[..., dict[str, Any]]
"""A network's modes: `run(name, batch, **options)`. Results may lie on a device; numpy reads them."""

MARGIN = 3
"""Bits of a latent whose posterior is as wide as its prior."""
QUANTILE = 0.9
"""Share of a variate's latents that bins are narrow enough for. Every bit more is borrowed once, every bit
fewer makes pictures longer: `docs/compression.md` has the measurements."""
INACTIVE = 2e-3
"""Mean KL in nats below which a variate's latents have one bit. Not none: together they tell something."""
EXTREMES = np.errstate(over="ignore", under="ignore")
"""What is far out in a distribution's tail is 0 or infinite, as it should be."""
_CONTEXT, _PRIOR, _STATE = ("x", "features"), ("mean", "scale"), "state."


@dataclass(frozen=True)
class Pixels:
    """Between pictures uint8 (B, h, w, C) and levels, and how they are padded for the network."""

    plan: LatentPlan
    shift: int  # bits of a picture that the model does not know

    @classmethod
    def of(cls, plan: LatentPlan, data: Data) -> "Pixels":
        """Those of a model."""
        return cls(plan, 7 if plan.likelihood == "bernoulli" else 8 - int(data.num_bits))

    @property
    def scale(self) -> Scale:
        """Of the levels."""
        return Scale(256 >> self.shift, -1.0, (1 << self.shift) / 127.5)

    def levels(self, pictures: Array) -> Array:
        """Levels of pictures."""
        return pictures >> self.shift

    def pictures(self, numbers: Array) -> Array:
        """Pictures of levels."""
        if self.plan.likelihood == "bernoulli":
            return (numbers * 255).astype(np.uint8)
        return (numbers << np.uint64(self.shift)).astype(np.uint8)

    def check(self, pictures: Array, first: int) -> None:
        """Raise a `UserError` for the first picture, numbered from `first`, that is none of these levels."""
        wrong = self.pictures(self.levels(pictures).astype(np.uint64)) != pictures
        if wrong.any():
            n = int(wrong.reshape(len(wrong), -1).any(1).argmax())
            value = int(pictures[n][wrong[n]][0])
            binary = self.plan.likelihood == "bernoulli"
            known = "0 and 255" if binary else f"multiples of {1 << self.shift}"
            raise UserError(
                f"picture {first + n} has the value {value}, but the model knows only {known}: the result "
                f"would not be lossless; round the pictures first"
            )

    def padded(self, pictures: Array) -> Array:
        """With the zeros around that the network was trained with."""
        edge = (self.plan.crop, self.plan.crop)
        return np.pad(pictures, [(0, 0), *[edge] * len(self.plan.extent), (0, 0)])


class BitsBack:
    """Codes batches of pictures. `bits` holds the bits of every group's variates, each (Z,)."""

    def __init__(self, run: Run, plan: LatentPlan, pixels: Pixels, bits: Sequence[Sequence[int]]) -> None:
        self.run, self.plan, self.pixels = run, plan, pixels
        self.bits = [np.asarray(group, np.uint64) for group in bits]

    @property
    def picture_bits(self) -> int:
        """Bits that the latents of one picture take under the prior."""
        return sum(
            int(bits.sum()) * self.plan.latent_dims(group) // len(bits)
            for group, bits in enumerate(self.bits)
        )

    @EXTREMES
    def encode(self, coder: Coder, pictures: Array) -> None:
        """Push a batch (B, h, w, C)."""
        B = len(pictures)
        activations = self.run("activations", {"image": self.pixels.padded(pictures)})
        top_down, bins = TopDown(self.run, B), list[Array]()
        for group in range(len(self.bits)):
            normals = top_down.prior(), top_down.posterior(group, activations)
            bins.append(latents.pop_posterior(coder, *normals, self._latent_bits(group, B)))
            top_down.add(latents.medians(bins[-1], normals[0], self._latent_bits(group, B)))
        numbers = self.pixels.levels(pictures)
        levels.push_levels(coder, numbers, top_down.likelihood(), self.pixels.scale)
        for group in reversed(range(len(self.bits))):
            latents.push_prior(coder, bins[group], self._latent_bits(group, B))

    @EXTREMES
    def decode(self, coder: Coder, B: int) -> Array:
        """Pop a batch of B pictures: the inverse of `encode`."""
        top_down, priors, bins = TopDown(self.run, B), list[Normal](), list[Array]()
        for group in range(len(self.bits)):
            priors.append(top_down.prior())
            bins.append(latents.pop_prior(coder, self._latent_bits(group, B)))
            top_down.add(latents.medians(bins[-1], priors[-1], self._latent_bits(group, B)))
        shape = (B, *self.plan.image_shape)
        numbers = levels.pop_levels(coder, top_down.likelihood(), self.pixels.scale, shape)
        pictures = self.pixels.pictures(numbers)
        activations = self.run("activations", {"image": self.pixels.padded(pictures)})
        for group in reversed(range(len(self.bits))):
            normals = priors[group], top_down.posterior(group, activations)
            latents.push_posterior(coder, bins[group], *normals, self._latent_bits(group, B))
        return pictures

    def _latent_bits(self, group: int, B: int) -> Array:
        """Bits of every latent of a batch, (n,)."""
        bits = self.bits[group]
        return np.tile(bits, B * self.plan.latent_dims(group) // len(bits))


class TopDown:
    """A pass down the hierarchy for a batch of B, in the steps that encoder and decoder share. Features stay
    where the network computes; statistics are (n,), all latents of a group of the batch."""

    def __init__(self, run: Run, B: int) -> None:
        self.run, self.states = run, dict[str, Any]()
        self.known = [run("first_prior", {"index": np.arange(B)})]
        """What is known of each group before it has latents, and at the end of the levels."""

    def prior(self) -> Normal:
        """That of the next group."""
        return _normal(self.known[-1], f"prior of latent group {len(self.known) - 1}")

    def posterior(self, group: int, activations: Arrays) -> Normal:
        """That of a group whose prior is known."""
        batch = {name: self.known[group][name] for name in (*_CONTEXT, *_PRIOR)}
        batch["activation"] = activations[f"activation.{group}"]
        statistics = self.run("group_posterior", batch, group=group)
        return _normal(statistics, f"posterior of latent group {group}")

    def add(self, values: Array) -> None:
        """Give the next group its latents (n,)."""
        known = self.known[-1]
        z = values.reshape(known["mean"].shape).astype(known["mean"].dtype)
        batch = {"z": z, **{name: known[name] for name in _CONTEXT}, **self.states}
        self.known.append(self.run("next_prior", batch, group=len(self.known) - 1))
        self.states |= {name: x for name, x in self.known[-1].items() if name.startswith(_STATE)}

    def likelihood(self) -> dict[str, Array]:
        """Parameters of the levels' distribution, once all groups have latents."""
        parameters = {
            name: np.asarray(x) for name, x in self.known[-1].items() if not name.startswith(_STATE)
        }
        _check_finite(parameters, "distribution of levels")
        return parameters


def _normal(statistics: Arrays, what: str) -> Normal:
    arrays = {name: np.asarray(statistics[name]).reshape(-1).astype(np.float64) for name in ("mean", "std")}
    _check_finite(arrays, what)
    return Normal(**arrays)


def _check_finite(arrays: Mapping[str, Array], what: str) -> None:
    scales = (arrays[name] for name in ("std", "inverse_scales") if name in arrays)
    if not all(np.isfinite(array).all() for array in arrays.values()) or any((s <= 0).any() for s in scales):
        raise UserError(
            f"the model's {what} has values that are not finite, or scales of zero: these weights cannot "
            "compress; train longer, or choose another checkpoint"
        )


@EXTREMES
def choose_bits(run: Run, plan: LatentPlan, pixels: Pixels, pictures: Array, seed: int) -> list[list[int]]:
    """Bits of every group's variates, from what the posterior makes of a few pictures.

    In quantiles of the prior, a posterior is about sd(q) / sd(p) exp(-d^2 / 2) wide, where d is the distance
    of the means in sd(p). Bins are to be 2^`MARGIN` times narrower.
    """
    rng = np.random.default_rng(seed)
    # One by one: JAX has compiled for the first batches, which have one picture.
    each = [_widths(run, plan, pixels, pictures[n : n + 1], rng) for n in range(len(pictures))]
    chosen = []
    for group in zip(*each, strict=True):
        narrow, kl = (np.concatenate(rows) for rows in zip(*group, strict=True))  # (n, Z)
        bits = np.ceil(MARGIN + np.quantile(narrow, QUANTILE, axis=0)).clip(1, MAX_BITS)
        chosen.append(np.where(kl.mean(0) < INACTIVE, 1, bits).astype(int).tolist())
    return chosen


def _widths(
    run: Run, plan: LatentPlan, pixels: Pixels, pictures: Array, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """Of every group, how many bits narrower than the prior the posterior is, and the KL in nats, (n, Z)."""
    activations = run("activations", {"image": pixels.padded(pictures)})
    top_down, widths = TopDown(run, len(pictures)), []
    for group, block in enumerate(plan.groups):
        prior, posterior = top_down.prior(), top_down.posterior(group, activations)
        distance = (posterior.mean - prior.mean) / prior.std
        log_ratio = np.log(posterior.std / prior.std)
        narrow = (distance**2 / 2 - log_ratio) / np.log(2)
        kl = np.expm1(2 * log_ratio) / 2 - log_ratio + distance**2 / 2
        widths.append((narrow.reshape(-1, block.variates), kl.reshape(-1, block.variates)))
        top_down.add(posterior.mean + posterior.std * rng.standard_normal(posterior.mean.shape))
    return widths
