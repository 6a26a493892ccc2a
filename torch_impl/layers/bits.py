"""Tokens as groups of bits, least significant first (Weber et al. 2024, MaskBit, section 3.3)."""

import torch
from einops import rearrange
from torch import Tensor


def split_tokens(tokens: Tensor, splits: int, bits: int) -> Tensor:
    """Tokens (B, N) -> their groups of `bits` bits (B, N M), those of a token one after the other."""
    shifts = bits * torch.arange(splits, device=tokens.device)
    groups = rearrange(tokens, "b n -> b n 1") >> shifts & 2**bits - 1
    return rearrange(groups, "b n m -> b (n m)")


def combine_groups(groups: Tensor, splits: int, bits: int) -> Tensor:
    """Groups (..., N M) -> tokens (..., N)."""
    shifts = bits * torch.arange(splits, device=groups.device)
    return (rearrange(groups, "... (n m) -> ... n m", m=splits) << shifts).sum(-1)


def signs(groups: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Groups (...) -> their bits as -1 and 1, (..., E); zeros for the mask, 2^bits."""
    groups = rearrange(groups, "... -> ... 1")
    values = (groups >> torch.arange(bits, device=groups.device) & 1) * 2 - 1
    return torch.where(groups < 2**bits, values, 0).to(dtype)
