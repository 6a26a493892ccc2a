"""Distances between pictures and their reconstructions, and codebook usage."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dioscuri.engine import Array, Batch, Engine
from dioscuri.families.vqgan.perceptual import LPIPS
from dioscuri.metrics.psnr import psnr
from dioscuri.metrics.ssim import ssim


@dataclass(frozen=True)
class Quality:
    """Means over `n` pictures; `counts` (codes,) is how often each code was used."""

    n: int
    reconstruction: float  # mean difference, in the tokenizer's pixel range
    perceptual: float | None  # None without the weights of a network
    psnr: float  # decibels
    ssim: float
    counts: Array
    distance: str = LPIPS  # what the perceptual one is called

    @property
    def usage(self) -> float:
        """Fraction of the codes that were used."""
        return float((self.counts > 0).mean()) if len(self.counts) else 0.0

    @property
    def perplexity(self) -> float:
        """exp(entropy) of the codes' frequencies: the number of equally frequent
        codes with the same entropy."""
        shares = self.counts[self.counts > 0] / self.counts.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        perceptual = {} if self.perceptual is None else {self.distance.lower(): self.perceptual}
        return {
            "reconstruction": self.reconstruction,
            **perceptual,
            "psnr": self.psnr,
            "ssim": self.ssim,
            "codebook_usage": self.usage,
            "codebook_perplexity": self.perplexity,
        }

    def __str__(self) -> str:
        perceptual = "" if self.perceptual is None else f", {self.distance} {self.perceptual:.4f}"
        return (
            f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}{perceptual}, reconstruction loss "
            f"{self.reconstruction:.4f} (values from -1 to 1); {self.usage:.0%} of {len(self.counts)} codes "
            f"used, perplexity {self.perplexity:.1f} codes"
        )


@dataclass
class QualitySum:
    """Sums terms over padded batches, counting every picture once."""

    codebook_size: int
    distance: str = LPIPS
    _terms: dict[str, list[Array]] = field(default_factory=dict)
    _counts: Array | int = 0

    def add(self, pictures: Array, made: Mapping[str, Array], valid: Array) -> None:
        """Add the results of `reconstruct` for uint8 pictures (B, H, W, C) where `valid` (B,) is true."""
        image = made["image"][valid]
        terms = {name: made[name][valid] for name in ("reconstruction", "perceptual") if name in made}
        # Pictures that are not finite hold meaningless levels, and so would their distances be.
        unknown = np.where(np.isfinite(terms["reconstruction"]), 0.0, np.nan)
        terms |= {name: of(pictures[valid], image) + unknown for name, of in (("psnr", psnr), ("ssim", ssim))}
        for name, values in terms.items():
            self._terms.setdefault(name, []).append(values.astype(np.float64))
        tokens = made["tokens"][valid].reshape(-1)
        self._counts = self._counts + np.bincount(tokens, minlength=self.codebook_size)

    def mean(self) -> Quality:
        """The means so far."""
        means = {name: float(np.concatenate(values).mean()) for name, values in self._terms.items()}
        return Quality(
            n=sum(map(len, self._terms["psnr"])),
            reconstruction=means["reconstruction"],
            perceptual=means.get("perceptual"),
            psnr=means["psnr"],
            ssim=means["ssim"],
            counts=np.asarray(self._counts),
            distance=self.distance,
        )


def network_inputs(batch: Batch) -> dict[str, Array]:
    """What a tokenizer reads of a batch: pictures and, if its decoder reads them, texts."""
    return {name: batch[name] for name in ("image", "text") if name in batch}


def measure(
    engine: Engine,
    batches: Iterable[Batch],
    total: QualitySum,
    *,
    ema: bool,
    on_batch: Callable[[], None] = lambda: None,
) -> Quality:
    """Reconstruct padded batches and measure; `total` is empty at first."""
    for index, batch in enumerate(batches):
        made = engine.run("reconstruct", network_inputs(batch), ema=ema, step=index)
        total.add(batch["image"], made, batch["valid"])
        on_batch()
    return total.mean()
