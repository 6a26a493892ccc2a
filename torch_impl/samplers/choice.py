"""Sampling a token at every position: filters of logits, guidance, Gumbel-max and inverse-CDF sampling."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dioscuri.families.token_models.masking_options import Filters

BLOCK = 32
"""Block of tokens for cumulative sums, which run over blocks first, then inside one block."""


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (..., K) with -inf below the k-th largest; ties with it are kept. 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    least = torch.topk(logits, k, dim=-1).values[..., -1:]
    return torch.where(logits >= least, logits, -torch.inf)


def keep_top_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Logits (..., K) with -inf where more likely tokens already have a total probability p (nucleus
    sampling, Holtzman et al. 2020). 1 keeps all."""
    ordered = torch.sort(logits, dim=-1, descending=True).values
    probabilities = torch.softmax(ordered, dim=-1)
    inside = torch.cumsum(probabilities, dim=-1) - probabilities < p
    least = torch.amin(torch.where(inside, ordered, torch.inf), dim=-1, keepdim=True)
    return torch.where((logits >= least) | (p >= 1), logits, -torch.inf)


def filtered(logits: Tensor, options: Filters, step: int, top_p: Tensor) -> Tensor:
    """Logits after both filters of a step; `top_p` (T,) holds that of all steps."""
    k = options.top_k
    logits = keep_top_k(logits, k[step] if isinstance(k, tuple) else k)
    return keep_top_p(logits, top_p[step].to(logits.dtype)) if options.filters_p else logits


def draw_tokens(logits: Tensor, gumbel: Tensor) -> Tensor:
    """One token (...) from logits and standard Gumbel noise (..., K)."""
    return torch.argmax(logits + gumbel, dim=-1)


def inverse_cdf_sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token (...) from logits (..., K) and uniform noise (...) on [0, 1): the first whose cumulative
    probability exceeds the noise."""
    probabilities = torch.softmax(logits, dim=-1)
    if missing := -probabilities.shape[-1] % BLOCK:
        probabilities = F.pad(probabilities, (0, missing))
    probabilities = probabilities.unflatten(-1, (-1, BLOCK))
    sums = probabilities.sum(-1)
    block, remainder = _first_above(sums, uniform * sums.sum(-1))
    rows, n = probabilities.flatten(0, -2), sums.shape[-1]
    inside = rows[block.flatten() + n * torch.arange(block.numel(), device=block.device)]
    return block * BLOCK + _first_above(inside.reshape(*block.shape, BLOCK), remainder)[0]


def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) (..., K) at the tokens (...)."""
    return logit_of(logits, tokens) - torch.logsumexp(logits, dim=-1)


def logit_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Logits (..., K) at the tokens (...)."""
    return torch.gather(logits, -1, tokens[..., None])[..., 0]


def guide(logits: Tensor, factor: Tensor) -> Tensor:
    """unconditional + factor (conditional - unconditional), for a batch of conditional, then unconditional
    predictions (classifier-free guidance, Ho and Salimans 2022)."""
    conditional, unconditional = logits.chunk(2)
    return unconditional + factor * (conditional - unconditional)


def _first_above(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Index at which cumulative sums of `probabilities` (..., N) first exceed `target` (...), or of the last
    nonzero share if rounding keeps them below; and the target minus the shares before it."""
    cumulative = torch.cumsum(probabilities, -1)
    ends = torch.where(probabilities > 0, cumulative, -1)
    reached = (ends > target[..., None]) | (ends == ends.amax(-1, keepdim=True))
    index = reached.to(torch.uint8).argmax(-1)
    before = torch.take_along_dim(cumulative - probabilities, index[..., None], -1)[..., 0]
    return index, target - before
