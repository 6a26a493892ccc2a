"""Kernel distance between features: squared maximum mean discrepancy (Gretton et al. 2012, equation 3) with a
cubic kernel, averaged over random subsets (Binkowski et al. 2018, section 4).

It is called KID for features of the Inception network only.
"""

import numpy as np

Array = np.ndarray


def kernel_distance(
    first: Array, second: Array, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the estimate over pairs of random subsets, without replacement, of
    features (M, D) and (N, D). `subset_size` is between 2 and the smaller of M and N."""
    if not 2 <= subset_size <= min(len(first), len(second)):
        raise ValueError(f"subsets of {subset_size} do not fit {len(first)} and {len(second)} vectors")
    random = np.random.default_rng(seed)
    estimates = [
        squared_discrepancy(
            *(vectors[random.permutation(len(vectors))[:subset_size]] for vectors in (first, second))
        )
        for _ in range(subsets)
    ]
    return float(np.mean(estimates)), float(np.std(estimates))


def squared_discrepancy(first: Array, second: Array) -> float:
    """Unbiased estimate from features (M, D) and (N, D), each of 2 rows or more; it may be negative."""
    within = [
        (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))
        for kernel in (cubic_kernel(first, first), cubic_kernel(second, second))
    ]
    return float(sum(within) - 2 * cubic_kernel(first, second).mean())


def cubic_kernel(first: Array, second: Array) -> Array:
    """(x . y / D + 1)^3 of all pairs: (M, D), (N, D) -> (M, N), float64."""
    kernel: Array = (first.astype(np.float64) @ second.astype(np.float64).T / first.shape[1] + 1) ** 3
    return kernel
