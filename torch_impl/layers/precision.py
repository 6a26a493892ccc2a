"""Which arithmetic is used where: the network's is an option, statistics and likelihoods have >= float32."""

import torch
from torch import Tensor


def cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Convert to the compute dtype; None leaves the tensor as it is."""
    return x if dtype is None else x.to(dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Promote a bfloat16 or float16 tensor to float32; never demote."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
