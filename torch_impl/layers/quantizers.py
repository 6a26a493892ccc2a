"""Quantisers: vectors z (B, h, w, D) to codes, by the nearest code or by rounding each component.

In training, gradients pass straight through the codes to z. Distances and losses are in at least float32.
"""
# ruff: noqa: ARG002 - quantisers take the same arguments

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.plan import TokenizerPlan
from torch_impl.layers.norms import unit
from torch_impl.layers.precision import at_least_float32

Tensors = Mapping[str, Tensor]
SMALL = 1e-5
"""Keeps logarithms of the entropy loss finite."""


CLUSTER_DECAY = 0.99
"""Of the average share of the tokens by which clustered codes move."""


class Quantised(NamedTuple):
    """Codes (B, h, w, D), their indices (B, h, w), losses (0-d; `quantiser` is their weighted sum), and the
    quantiser's new buffers."""

    codes: Tensor
    indices: Tensor
    losses: dict[str, Tensor]
    buffers: dict[str, Tensor]


class NearestCode(nn.Module):
    """The nearest of K codes (van den Oord et al. 2017)."""

    def __init__(self, options: Tokenizer) -> None:
        super().__init__()
        self.embedding = nn.Embedding(options.num_embeddings, options.embedding_dim)
        self.options = options

    def codebook(self) -> Tensor:
        """The codes (K, D)."""
        codes = at_least_float32(self.embedding.weight)
        return unit(codes) if self.options.l2_normalised else codes

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances (B, h, w, K)."""
        codes = self.codebook()
        z = at_least_float32(z)
        products = z @ codes.T
        return z.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * products

    def affinity(self, z: Tensor) -> Tensor:
        """Minus the squared distances (B, h, w, K)."""
        return -self.distances(z)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, h, w, D)."""
        return self.codebook()[indices]

    def forward(self, z: Tensor, buffers: Tensors | None = None, *, train: bool = False) -> Quantised:
        """Quantise; training adds losses and, with moving averages, new buffers."""
        rows = at_least_float32(z)
        z = unit(rows) if self.options.l2_normalised else rows
        distances = self.distances(z)
        indices = distances.argmin(-1)
        codes = self.lookup(indices)
        if not train:
            return Quantised(codes, indices, {}, {})
        losses = self._losses(z, codes, distances)
        new = {}
        if buffers and "cluster_size" in buffers:
            new = _updated_averages(z, indices, buffers, self.options)
        if buffers and "embed_prob" in buffers:
            new = self._clustered(rows, distances, indices, buffers["embed_prob"])
        return Quantised(z + (codes - z).detach(), indices, losses, new)

    def _clustered(
        self, rows: Tensor, distances: Tensor, indices: Tensor, embed_prob: Tensor
    ) -> dict[str, Tensor]:
        """Each code's share of the tokens, a moving average, and how far it moves towards the batch's nearest
        vector (Zheng and Vedaldi 2023, equations 3 and 4)."""
        K = self.options.num_embeddings
        counts = torch.zeros_like(embed_prob).index_add_(
            0, indices.flatten(), torch.ones_like(indices.flatten(), dtype=embed_prob.dtype)
        )
        share = CLUSTER_DECAY * embed_prob + (1 - CLUSTER_DECAY) * counts / indices.numel()
        weight = torch.exp(-share * K * 10 / (1 - CLUSTER_DECAY) - 1e-3)
        nearest = rearrange(rows.detach(), "b h w d -> (b h w) d")[
            rearrange(distances, "b h w k -> (b h w) k").argmin(0)
        ]
        return {
            "embed_prob": share,
            "code_shift": rearrange(weight, "k -> k 1")
            * (nearest - at_least_float32(self.embedding.weight).detach()),
        }

    def _losses(self, z: Tensor, codes: Tensor, distances: Tensor) -> dict[str, Tensor]:
        options = self.options
        of_encoder = (codes.detach() - z).square().mean()
        of_codes = (codes - z.detach()).square().mean()
        if options.quantizer == "ema":
            of_codes = torch.zeros_like(of_codes)
        if options.legacy_commitment:
            total = of_encoder + options.commitment_cost * of_codes
        else:
            total = options.commitment_cost * of_encoder + of_codes
        losses = {"encoder": of_encoder, "codes": of_codes}
        if options.entropy_loss_ratio:
            losses["entropy"] = entropy_loss(-distances, options)
            total = total + options.entropy_loss_ratio * losses["entropy"]
        return losses | {"quantiser": total}


class GumbelCodes(nn.Module):
    """In training, codes mixed by probabilities with Gumbel noise (Jang et al. 2017, equation 2);
    otherwise the most likely code.

    The logits are those of a 1x1 convolution, as in taming-transformers, or, with maskgit and paella, minus
    the squared distances from the codes.
    """

    def __init__(self, options: Tokenizer) -> None:
        super().__init__()
        K, D = options.num_embeddings, options.embedding_dim
        self.options, self.projected = options, options.architecture in ("taming", "movq")
        if self.projected:
            self.proj = nn.Conv2d(D, K, 1)
            self.embed = nn.Embedding(K, D)
        else:
            self.embedding = nn.Embedding(K, D)

    def codebook(self) -> Tensor:
        """The codes (K, D)."""
        return at_least_float32((self.embed if self.projected else self.embedding).weight)

    def logits(self, z: Tensor) -> Tensor:
        """Logits of the codes (B, h, w, K)."""
        if self.projected:
            assert self.proj.bias is not None
            weight, bias = (at_least_float32(tensor) for tensor in (self.proj.weight, self.proj.bias))
            return F.linear(z, weight.flatten(1), bias)
        codes = self.codebook()
        return 2 * (z @ codes.T) - z.square().sum(-1, keepdim=True) - codes.square().sum(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, h, w, D)."""
        return self.codebook()[indices]

    def forward(
        self,
        z: Tensor,
        noise: Tensors | None = None,
        temperature: Tensor | float = 1.0,
        *,
        train: bool = False,
    ) -> Quantised:
        """Quantise; training uses `noise['gumbel']`, uniform (B, h, w, K), and adds losses."""
        logits, options = self.logits(at_least_float32(z)), self.options
        if not train:
            indices = logits.argmax(-1)
            return Quantised(self.lookup(indices), indices, {}, {})
        uniform = (noise or {})["gumbel"].clamp(1e-20, 1 - 1e-7)
        mixture = ((logits - torch.log(-torch.log(uniform))) / temperature).softmax(-1)
        indices = mixture.argmax(-1)
        if options.gumbel_straight_through:
            hard = F.one_hot(indices, options.num_embeddings).to(mixture.dtype)
            mixture = mixture + (hard - mixture).detach()
        p = logits.softmax(-1)
        losses = {"kl": (p * torch.log(p * options.num_embeddings + 1e-10)).sum(-1).mean()}
        total = options.gumbel_kl_weight * losses["kl"]
        if options.entropy_loss_ratio:
            losses["entropy"] = entropy_loss(logits, options)
            total = total + options.entropy_loss_ratio * losses["entropy"]
        return Quantised(mixture @ self.codebook(), indices, losses | {"quantiser": total}, {})


class FiniteScalars(nn.Module):
    """Finite scalar quantisation: each component is rounded to one of a few values (Mentzer et al. 2023,
    section 3)."""

    def __init__(self, options: Tokenizer) -> None:
        super().__init__()
        self.levels = np.array(options.fsq_levels)
        self.strides = np.cumprod([1, *self.levels[:-1]])

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, h, w, D) with components in [-1, 1]."""
        levels, strides = self._constants(indices)
        digits = rearrange(indices, "b h w -> b h w 1") // strides % levels
        half = levels // 2
        return (digits - half) / half

    def forward(self, z: Tensor, buffers: Tensors | None = None, *, train: bool = False) -> Quantised:
        """Quantise, without losses and buffers."""
        z = at_least_float32(z)
        levels, strides = self._constants(z)
        bounded = self._bounded(z)
        half = levels // 2
        digits = bounded.round() + half
        indices = (digits.to(torch.int64) * strides).sum(-1)
        rounded = bounded + (bounded.round() - bounded).detach()
        losses = {"quantiser": torch.zeros((), dtype=z.dtype, device=z.device)} if train else {}
        return Quantised(rounded / half, indices, losses, {})

    def _bounded(self, z: Tensor) -> Tensor:
        """z bounded so that rounding gives as many values as there are levels."""
        halves = (self.levels - 1) * (1 + 1e-3) / 2
        offsets = np.where(self.levels % 2 == 0, 0.5, 0.0)
        shifts = np.arctanh(offsets / halves)
        half, offset, shift = (torch.tensor(values).to(z) for values in (halves, offsets, shifts))
        return torch.tanh(z + shift) * half - offset

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        levels, strides = torch.from_numpy(self.levels), torch.from_numpy(self.strides)
        return levels.to(like.device), strides.to(like.device)


class Signs(nn.Module):
    """Lookup-free quantisation: the sign of each component, 2^D codes (Yu et al. 2023, section 3.1)."""

    def __init__(self, options: Tokenizer) -> None:
        super().__init__()
        self.options = options

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, h, w, D) with components -1 and 1."""
        indices = rearrange(indices, "... -> ... 1")
        bits = torch.arange(self.options.embedding_dim, device=indices.device)
        return (indices >> bits & 1) * 2.0 - 1.0

    def affinity(self, z: Tensor) -> Tensor:
        """Minus the squared distances from all codes (B, h, w, K), up to a number per position."""
        z = at_least_float32(z)
        codebook = self.lookup(torch.arange(self.options.num_embeddings, device=z.device)).to(z.dtype)
        return 2 * (z @ codebook.T)

    def forward(self, z: Tensor, buffers: Tensors | None = None, *, train: bool = False) -> Quantised:
        """Quantise; training adds the commitment loss and, if its weight is not 0, the entropy loss."""
        z, options = at_least_float32(z), self.options
        positive = z > 0
        bits = 2 ** torch.arange(options.embedding_dim, device=z.device)
        indices = (positive * bits).sum(-1)
        codes = torch.where(positive, 1.0, -1.0).to(z.dtype)
        if not train:
            return Quantised(codes, indices, {}, {})
        losses = {"encoder": (codes - z).square().mean()}
        total = options.commitment_cost * losses["encoder"]
        if options.entropy_loss_ratio:
            losses["entropy"] = entropy_loss(self.affinity(z), options)
            total = total + options.entropy_loss_ratio * losses["entropy"]
        return Quantised(z + (codes - z).detach(), indices, losses | {"quantiser": total}, {})


class GaussianPosterior(nn.Module):
    """Samples of a Gaussian posterior, in evaluation its mean (Kingma and Welling 2014): vectors
    (B, h, w, 2 D) are means and logarithms of variances."""

    def __init__(self, options: Tokenizer) -> None:
        super().__init__()
        self.options = options

    def lookup(self, indices: Tensor) -> Tensor:
        """There are no codes."""
        del indices
        raise UserError("this tokenizer has no codes, so there are no tokens to decode: use reconstruct")

    def forward(self, z: Tensor, noise: Tensors | None = None, *, train: bool = False) -> Quantised:
        """Samples; training uses `noise['posterior']`, normal (B, h, w, D), and adds the KL from a normal
        distribution, a mean over pictures. There are no indices: (B, h, 0)."""
        mean, logvar = at_least_float32(z).chunk(2, -1)
        logvar = logvar.clamp(-30, 20)
        none = torch.zeros((*mean.shape[:2], 0), dtype=torch.int64, device=z.device)
        if not train:
            return Quantised(mean, none, {}, {})
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(mean)
        return Quantised(mean + (logvar / 2).exp() * (noise or {})["posterior"], none, {"quantiser": kl}, {})


Quantizer = NearestCode | GumbelCodes | FiniteScalars | Signs | GaussianPosterior


def make_quantizer(options: Tokenizer) -> Quantizer:
    """The quantiser of `options.quantizer`."""
    if options.quantizer == "fsq":
        return FiniteScalars(options)
    if options.quantizer == "gumbel":
        return GumbelCodes(options)
    if options.quantizer == "gaussian":
        return GaussianPosterior(options)
    return Signs(options) if options.quantizer == "lfq" else NearestCode(options)


def entropy_loss(affinity: Tensor, options: Tokenizer) -> Tensor:
    """Mean entropy of the positions' code probabilities minus that of their mean, times `entropy_gamma`
    (tokenizer of Chang et al. 2022; Yu et al. 2023, section 3.1).

    `affinity` (..., K) is larger for nearer codes.
    """
    of_positions, of_average = entropies(affinity, options.entropy_temperature, options.entropy_type)
    return of_positions - options.entropy_gamma * of_average


def entropies(affinity: Tensor, temperature: float, kind: str) -> tuple[Tensor, Tensor]:
    """Mean entropy of the positions' code probabilities, and entropy of the mean probabilities, in nats.

    With `kind` 'argmax', the chosen code is the target.
    """
    affinity = affinity.flatten(0, -2) / temperature
    p = affinity.softmax(-1)
    if kind == "clamped":
        return _clamped_entropy(p).mean(), _clamped_entropy(p.mean(0))
    log_p = (affinity + SMALL).log_softmax(-1)
    if kind == "argmax":
        hard = F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)
        target = p + (hard - p).detach()
    else:
        target = p
    average = target.mean(0)
    of_average = -(average * torch.log(average + SMALL)).sum()
    return -(target * log_p).sum(-1).mean(), of_average


def _clamped_entropy(p: Tensor) -> Tensor:
    """Entropy over the last axis, with logarithms of at least SMALL."""
    return -(p * torch.log(p.clamp(min=SMALL))).sum(-1)


def averaged_codebook(plan: TokenizerPlan, buffers: Tensors) -> Tensor | None:
    """The codes (K, D) from moving averages, with Laplace smoothing; None without moving averages."""
    if plan.options.quantizer != "ema":
        return None
    weight = averaged_weight(plan, buffers)
    size = buffers["cluster_size"] / weight
    total, small = size.sum(), 1e-5
    smoothed = (size + small) / (total + plan.codebook_size * small) * total
    return buffers["embedding_sum"] / weight / rearrange(smoothed, "k -> k 1")


def averaged_weight(plan: TokenizerPlan, buffers: Tensors) -> Tensor | float:
    """Divisor of the moving averages: the sum of weights so far if they begin at 0, else 1."""
    if "averaged" not in buffers:
        return 1.0
    return 1 - plan.options.ema_decay ** torch.clamp(buffers["averaged"][0], min=1)


def _updated_averages(z: Tensor, indices: Tensor, buffers: Tensors, options: Tokenizer) -> dict[str, Tensor]:
    """Moving averages after a batch (van den Oord et al. 2017, appendix A.1)."""
    vectors, chosen = rearrange(z.detach(), "b h w d -> (b h w) d"), indices.flatten()
    counts = torch.zeros_like(buffers["cluster_size"]).index_add_(
        0, chosen, torch.ones_like(chosen, dtype=z.dtype)
    )
    sums = torch.zeros_like(buffers["embedding_sum"]).index_add_(0, chosen, vectors)
    decay = options.ema_decay
    batches = {"averaged": buffers["averaged"] + 1} if "averaged" in buffers else {}
    return batches | {
        "cluster_size": decay * buffers["cluster_size"] + (1 - decay) * counts,
        "embedding_sum": decay * buffers["embedding_sum"] + (1 - decay) * sums,
    }
