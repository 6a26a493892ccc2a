"""Precision: layers compute in their weights' dtype, statistics and likelihoods in at least float32."""

import torch
from torch import Tensor, nn


def weights_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a module's parameters, in which it computes."""
    return next(module.parameters()).dtype


def at_least_float32(x: Tensor) -> Tensor:
    """Promote a bfloat16 or float16 tensor to float32; never demote."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
