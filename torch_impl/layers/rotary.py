"""Rotary positions (Su et al. 2021): pairs of channels rotate by an angle proportional to the position."""

import torch
from torch import Tensor

from torch_impl.layers.precision import at_least_float32


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, halves: bool = False) -> Tensor:
    """Rotate the first channels of x (B, L, N, K); cosines and sines are (L, N or 1, P), P <= K / 2.

    Pair p is channels 2p and 2p + 1 or, with `halves`, p and P + p. Channels after 2P are unchanged.
    """
    P = cos.shape[-1]
    if not halves and not torch.compiler.is_compiling():
        return _rotated_pairs(x, cos, sin)
    y, rest = at_least_float32(x[..., : 2 * P]), x[..., 2 * P :]
    a, b = y.chunk(2, -1) if halves else y.unflatten(-1, (P, 2)).unbind(-1)
    rotated = (a * cos - b * sin, b * cos + a * sin)
    y = torch.cat(rotated, -1) if halves else torch.stack(rotated, -1).flatten(-2)
    return torch.cat([y.to(x.dtype), rest], -1) if rest.shape[-1] else y.to(x.dtype)


def _rotated_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same of neighbours, as complex numbers: one pass over memory, which compilers cannot read."""
    P = cos.shape[-1]
    y, rest = at_least_float32(x[..., : 2 * P]), x[..., 2 * P :]
    pairs = torch.view_as_complex(y.unflatten(-1, (P, 2)))
    y = torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2).to(x.dtype)
    return torch.cat([y, rest], -1) if rest.shape[-1] else y
