"""Inception score (Salimans et al. 2016, section 4): high if a classifier is sure of each picture and the
pictures cover many classes.

It is called so for the Inception network only.
"""

from itertools import pairwise

import numpy as np

Array = np.ndarray


def inception_score(logits: Array, *, splits: int = 10, seed: int | None = 0) -> tuple[float, float]:
    """Mean and standard deviation of exp(E[KL(p(y|x) | p(y))]), between 1 and K, over `splits` subsets of the
    logits (N, K). The rows are shuffled first unless `seed` is None; N is at least `splits`.
    """
    N = len(logits)
    if not 1 <= splits <= N:
        raise ValueError(f"{splits} splits do not fit {N} rows")
    order = np.arange(N) if seed is None else np.random.default_rng(seed).permutation(N)
    logits = logits[order].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    ends = [i * N // splits for i in range(splits + 1)]
    scores = [_score(log_p[start:end]) for start, end in pairwise(ends)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(log_p: Array) -> float:
    p = np.exp(log_p)
    # A class whose probability underflows everywhere adds nothing.
    divergence = (p * (log_p - np.log(np.maximum(p.mean(0), np.finfo(p.dtype).tiny)))).sum(1)
    return float(np.exp(divergence.mean()))
