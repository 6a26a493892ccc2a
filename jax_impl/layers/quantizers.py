"""Quantisers: vectors z (B, h, w, D) to codes, by the nearest code or by rounding each component.

In training, gradients pass straight through the codes to z. Distances and losses are in at least float32.
"""
# ruff: noqa: ARG002 - quantisers take the same arguments

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array
from jax.lax import stop_gradient

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.plan import TokenizerPlan
from jax_impl.layers.dense import Embedding, Linear, broadcast
from jax_impl.layers.norms import unit
from jax_impl.layers.precision import at_least_float32

Arrays = Mapping[str, Array]
SMALL = 1e-5
"""Keeps logarithms of the entropy loss finite."""


CLUSTER_DECAY = 0.99
"""Of the average share of the tokens by which clustered codes move."""


class Quantised(NamedTuple):
    """Codes (B, h, w, D), their indices (B, h, w), losses (0-d; `quantiser` is their weighted sum), and the
    quantiser's new buffers."""

    codes: Array
    indices: Array
    losses: dict[str, Array]
    buffers: dict[str, Array]


class NearestCode(nnx.Module):
    """The nearest of K codes (van den Oord et al. 2017)."""

    def __init__(self, options: Tokenizer) -> None:
        self.embedding = Embedding(options.num_embeddings, options.embedding_dim)
        self.options = options

    def codebook(self) -> Array:
        """The codes (K, D)."""
        codes = at_least_float32(self.embedding.embedding[...])
        return unit(codes) if self.options.l2_normalised else codes

    def distances(self, z: Array) -> Array:
        """Squared distances (B, h, w, K)."""
        codes = self.codebook()
        z = at_least_float32(z)
        products = z @ codes.T
        return jnp.square(z).sum(-1, keepdims=True) + broadcast(jnp.square(codes).sum(-1), z) - 2 * products

    def affinity(self, z: Array) -> Array:
        """Minus the squared distances (B, h, w, K)."""
        return -self.distances(z)

    def lookup(self, indices: Array) -> Array:
        """Codes (B, h, w, D)."""
        return self.codebook()[indices]

    def __call__(self, z: Array, buffers: Arrays | None = None, *, train: bool = False) -> Quantised:
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
        return Quantised(z + stop_gradient(codes - z), indices, losses, new)

    def _clustered(
        self, rows: Array, distances: Array, indices: Array, embed_prob: Array
    ) -> dict[str, Array]:
        """Each code's share of the tokens, a moving average, and how far it moves towards the batch's nearest
        vector (Zheng and Vedaldi 2023, equations 3 and 4)."""
        K = self.options.num_embeddings
        counts = jnp.zeros_like(embed_prob).at[indices.reshape(-1)].add(1)
        share = CLUSTER_DECAY * embed_prob + (1 - CLUSTER_DECAY) * counts / indices.size
        weight = jnp.exp(-share * K * 10 / (1 - CLUSTER_DECAY) - 1e-3)
        nearest = rearrange(stop_gradient(rows), "b h w d -> (b h w) d")[
            rearrange(distances, "b h w k -> (b h w) k").argmin(0)
        ]
        return {
            "embed_prob": share,
            "code_shift": rearrange(weight, "k -> k 1")
            * (nearest - stop_gradient(at_least_float32(self.embedding.embedding[...]))),
        }

    def _losses(self, z: Array, codes: Array, distances: Array) -> dict[str, Array]:
        options = self.options
        of_encoder = jnp.square(stop_gradient(codes) - z).mean()
        of_codes = jnp.square(codes - stop_gradient(z)).mean()
        if options.quantizer == "ema":
            of_codes = jnp.zeros_like(of_codes)
        if options.legacy_commitment:
            total = of_encoder + options.commitment_cost * of_codes
        else:
            total = options.commitment_cost * of_encoder + of_codes
        losses = {"encoder": of_encoder, "codes": of_codes}
        if options.entropy_loss_ratio:
            losses["entropy"] = entropy_loss(-distances, options)
            total = total + options.entropy_loss_ratio * losses["entropy"]
        return losses | {"quantiser": total}


class GumbelCodes(nnx.Module):
    """In training, codes mixed by probabilities with Gumbel noise (Jang et al. 2017, equation 2);
    otherwise the most likely code.

    The logits are those of a 1x1 convolution, as in taming-transformers, or, with maskgit and paella, minus
    the squared distances from the codes.
    """

    def __init__(self, options: Tokenizer) -> None:
        K, D = options.num_embeddings, options.embedding_dim
        self.options, self.projected = options, options.architecture in ("taming", "movq")
        if self.projected:
            self.proj = Linear(D, K)
            self.embed = Embedding(K, D)
        else:
            self.embedding = Embedding(K, D)

    def codebook(self) -> Array:
        """The codes (K, D)."""
        return at_least_float32((self.embed if self.projected else self.embedding).embedding[...])

    def logits(self, z: Array) -> Array:
        """Logits of the codes (B, h, w, K)."""
        if self.projected:
            assert self.proj.bias is not None
            logits = z @ at_least_float32(self.proj.kernel[...])
            return logits + broadcast(at_least_float32(self.proj.bias[...]), logits)
        codes = self.codebook()
        products = 2 * (z @ codes.T)
        norms = jnp.square(codes).sum(-1)
        return products - jnp.square(z).sum(-1, keepdims=True) - broadcast(norms, products)

    def lookup(self, indices: Array) -> Array:
        """Codes (B, h, w, D)."""
        return self.codebook()[indices]

    def __call__(
        self,
        z: Array,
        noise: Arrays | None = None,
        temperature: Array | float = 1.0,
        *,
        train: bool = False,
    ) -> Quantised:
        """Quantise; training uses `noise['gumbel']`, uniform (B, h, w, K), and adds losses."""
        logits, options = self.logits(at_least_float32(z)), self.options
        if not train:
            indices = logits.argmax(-1)
            return Quantised(self.lookup(indices), indices, {}, {})
        uniform = (noise or {})["gumbel"].clip(1e-20, 1 - 1e-7)
        mixture = jax.nn.softmax((logits - jnp.log(-jnp.log(uniform))) / temperature)
        indices = mixture.argmax(-1)
        if options.gumbel_straight_through:
            hard = jax.nn.one_hot(indices, options.num_embeddings, dtype=mixture.dtype)
            mixture = mixture + stop_gradient(hard - mixture)
        p = jax.nn.softmax(logits)
        losses = {"kl": (p * jnp.log(p * options.num_embeddings + 1e-10)).sum(-1).mean()}
        total = options.gumbel_kl_weight * losses["kl"]
        if options.entropy_loss_ratio:
            losses["entropy"] = entropy_loss(logits, options)
            total = total + options.entropy_loss_ratio * losses["entropy"]
        return Quantised(mixture @ self.codebook(), indices, losses | {"quantiser": total}, {})


class FiniteScalars(nnx.Module):
    """Finite scalar quantisation: each component is rounded to one of a few values (Mentzer et al. 2023,
    section 3)."""

    def __init__(self, options: Tokenizer) -> None:
        self.levels = options.fsq_levels
        self.strides = tuple(int(stride) for stride in np.cumprod([1, *self.levels[:-1]]))

    def lookup(self, indices: Array) -> Array:
        """Codes (B, h, w, D) with components in [-1, 1]."""
        indices = rearrange(indices, "b h w -> b h w 1")
        levels, strides = (broadcast(jnp.array(numbers), indices) for numbers in (self.levels, self.strides))
        half = levels // 2
        return (indices // strides % levels - half) / half

    def __call__(self, z: Array, buffers: Arrays | None = None, *, train: bool = False) -> Quantised:
        """Quantise, without losses and buffers."""
        z = at_least_float32(z)
        half, strides = broadcast(jnp.array(self.levels) // 2, z), broadcast(jnp.array(self.strides), z)
        bounded = self._bounded(z)
        digits = jnp.round(bounded).astype(jnp.int32) + half
        indices = (digits * strides).sum(-1)
        rounded = bounded + stop_gradient(jnp.round(bounded) - bounded)
        losses = {"quantiser": jnp.zeros((), z.dtype)} if train else {}
        return Quantised(rounded / half, indices, losses, {})

    def _bounded(self, z: Array) -> Array:
        """z bounded so that rounding gives as many values as there are levels."""
        levels = np.array(self.levels)
        halves = (levels - 1) * (1 + 1e-3) / 2
        offsets = np.where(levels % 2 == 0, 0.5, 0.0)
        shifts = np.arctanh(offsets / halves)
        half, offset, shift = (
            broadcast(jnp.asarray(values, z.dtype), z) for values in (halves, offsets, shifts)
        )
        return jnp.tanh(z + shift) * half - offset


class Signs(nnx.Module):
    """Lookup-free quantisation: the sign of each component, 2^D codes (Yu et al. 2023, section 3.1)."""

    def __init__(self, options: Tokenizer) -> None:
        self.options = options

    def lookup(self, indices: Array) -> Array:
        """Codes (B, h, w, D) with components -1 and 1."""
        indices = rearrange(indices, "... -> ... 1")
        bits = broadcast(jnp.arange(self.options.embedding_dim), indices)
        return (indices >> bits & 1) * 2.0 - 1.0

    def affinity(self, z: Array) -> Array:
        """Minus the squared distances from all codes (B, h, w, K), up to a number per position."""
        z = at_least_float32(z)
        codebook = self.lookup(jnp.arange(self.options.num_embeddings)).astype(z.dtype)
        return 2 * (z @ codebook.T)

    def __call__(self, z: Array, buffers: Arrays | None = None, *, train: bool = False) -> Quantised:
        """Quantise; training adds the commitment loss and, if its weight is not 0, the entropy loss."""
        z, options = at_least_float32(z), self.options
        positive = z > 0
        bits = broadcast(2 ** jnp.arange(options.embedding_dim), z)
        indices = (positive * bits).sum(-1)
        codes = jnp.where(positive, 1.0, -1.0).astype(z.dtype)
        if not train:
            return Quantised(codes, indices, {}, {})
        losses = {"encoder": jnp.square(codes - z).mean()}
        total = options.commitment_cost * losses["encoder"]
        if options.entropy_loss_ratio:
            losses["entropy"] = entropy_loss(self.affinity(z), options)
            total = total + options.entropy_loss_ratio * losses["entropy"]
        return Quantised(z + stop_gradient(codes - z), indices, losses | {"quantiser": total}, {})


class GaussianPosterior(nnx.Module):
    """Samples of a Gaussian posterior, in evaluation its mean (Kingma and Welling 2014): vectors
    (B, h, w, 2 D) are means and logarithms of variances."""

    def __init__(self, options: Tokenizer) -> None:
        self.options = options

    def lookup(self, indices: Array) -> Array:
        """There are no codes."""
        del indices
        raise UserError("this tokenizer has no codes, so there are no tokens to decode: use reconstruct")

    def __call__(self, z: Array, noise: Arrays | None = None, *, train: bool = False) -> Quantised:
        """Samples; training uses `noise['posterior']`, normal (B, h, w, D), and adds the KL from a normal
        distribution, a mean over pictures. There are no indices: (B, h, 0)."""
        mean, logvar = jnp.split(at_least_float32(z), 2, -1)
        logvar = logvar.clip(-30, 20)
        none = jnp.zeros((*mean.shape[:2], 0), jnp.int32)
        if not train:
            return Quantised(mean, none, {}, {})
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).sum() / len(mean)
        return Quantised(mean + jnp.exp(logvar / 2) * (noise or {})["posterior"], none, {"quantiser": kl}, {})


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


def entropy_loss(affinity: Array, options: Tokenizer) -> Array:
    """Mean entropy of the positions' code probabilities minus that of their mean, times `entropy_gamma`
    (tokenizer of Chang et al. 2022; Yu et al. 2023, section 3.1).

    `affinity` (..., K) is larger for nearer codes.
    """
    of_positions, of_average = entropies(affinity, options.entropy_temperature, options.entropy_type)
    return of_positions - options.entropy_gamma * of_average


def entropies(affinity: Array, temperature: float, kind: str) -> tuple[Array, Array]:
    """Mean entropy of the positions' code probabilities, and entropy of the mean probabilities, in nats.

    With `kind` 'argmax', the chosen code is the target.
    """
    affinity = affinity.reshape(-1, affinity.shape[-1]) / temperature
    p = jax.nn.softmax(affinity)
    if kind == "clamped":
        return _clamped_entropy(p).mean(), _clamped_entropy(p.mean(0))
    log_p = jax.nn.log_softmax(affinity + SMALL)
    if kind == "argmax":
        hard = jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=p.dtype)
        target = p + stop_gradient(hard - p)
    else:
        target = p
    average = target.mean(0)
    of_average = -(average * jnp.log(average + SMALL)).sum()
    return -(target * log_p).sum(-1).mean(), of_average


def _clamped_entropy(p: Array) -> Array:
    """Entropy over the last axis, with logarithms of at least SMALL."""
    return -(p * jnp.log(p.clip(SMALL))).sum(-1)


def averaged_codebook(plan: TokenizerPlan, buffers: Arrays) -> Array | None:
    """The codes (K, D) from moving averages, with Laplace smoothing; None without moving averages."""
    if plan.options.quantizer != "ema":
        return None
    weight = averaged_weight(plan, buffers)
    size = buffers["cluster_size"] / weight
    total, small = size.sum(), 1e-5
    smoothed = (size + small) / (total + plan.codebook_size * small) * total
    return buffers["embedding_sum"] / weight / rearrange(smoothed, "k -> k 1")


def averaged_weight(plan: TokenizerPlan, buffers: Arrays) -> Array | float:
    """Divisor of the moving averages: the sum of weights so far if they begin at 0, else 1."""
    if "averaged" not in buffers:
        return 1.0
    return 1 - plan.options.ema_decay ** jnp.maximum(buffers["averaged"][0], 1)


def _updated_averages(z: Array, indices: Array, buffers: Arrays, options: Tokenizer) -> dict[str, Array]:
    """Moving averages after a batch (van den Oord et al. 2017, appendix A.1)."""
    vectors, chosen = rearrange(stop_gradient(z), "b h w d -> (b h w) d"), indices.reshape(-1)
    counts = jnp.zeros_like(buffers["cluster_size"]).at[chosen].add(1)
    sums = jnp.zeros_like(buffers["embedding_sum"]).at[chosen].add(vectors)
    decay = options.ema_decay
    batches = {"averaged": buffers["averaged"] + 1} if "averaged" in buffers else {}
    return batches | {
        "cluster_size": decay * buffers["cluster_size"] + (1 - decay) * counts,
        "embedding_sum": decay * buffers["embedding_sum"] + (1 - decay) * sums,
    }
