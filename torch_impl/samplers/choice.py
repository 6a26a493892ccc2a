"""Drawing a token at every position: filters of logits, guidance, Gumbel's maximum."""

import torch
from torch import Tensor

from common.hparams.masked_tokens import Filters


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (..., K) with -inf below the k largest; equal ones stay together. 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    least = torch.topk(logits, k, dim=-1).values[..., -1:]
    return torch.where(logits >= least, logits, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits (..., K) with -inf where the likelier ones make up a share p already (nucleus sampling, Holtzman
    et al. 2020). 1 keeps all."""
    if p >= 1:
        return logits
    ordered = torch.sort(logits, dim=-1, descending=True).values
    shares = torch.softmax(ordered, dim=-1)
    inside = torch.cumsum(shares, dim=-1) - shares < p
    least = torch.amin(torch.where(inside, ordered, torch.inf), dim=-1, keepdim=True)
    return torch.where(logits >= least, logits, -torch.inf)


def filtered(logits: Tensor, options: Filters) -> Tensor:
    """Both filters."""
    return keep_top_p(keep_top_k(logits, options.top_k), options.top_p)


def draw_tokens(logits: Tensor, gumbel: Tensor) -> Tensor:
    """One token (...) for logits and standard Gumbel noise (..., K)."""
    return torch.argmax(logits + gumbel, dim=-1)


def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) (..., K) at the tokens (...)."""
    chosen = torch.gather(logits, -1, tokens[..., None])[..., 0]
    return chosen - torch.logsumexp(logits, dim=-1)


def guide(both: Tensor, factor: Tensor) -> Tensor:
    """without + factor (with - without), of a batch that holds the predictions with the condition, then those
    without it (classifier-free guidance, Ho and Salimans 2022)."""
    given, null = both.chunk(2)
    return null + factor * (given - null)
