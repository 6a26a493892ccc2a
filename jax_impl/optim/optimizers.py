"""Update rules on flat vectors: Adamax, Adam (Kingma and Ba 2015), RAdam (Liu et al. 2020) and Lion (Chen et
al. 2023).

A rule takes the gradient g and both moments, all (P,), and the number t >= 1 of the update (a 0-d float
array). It returns the direction (P,), which the step multiplies by the learning rate and subtracts, and the
moments, moved by `share` of the way: 1, or 0 for an update that is skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import jax.numpy as jnp
from jax import Array


def adamax(
    grad: Array,
    first: Array,
    second: Array,
    share: Array,
    t: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Kingma and Ba, algorithm 2: the second moment is an infinity norm, without bias correction."""
    first = first + share * (1 - beta1) * (grad - first)
    second = jnp.maximum((1 - share * (1 - beta2)) * second, share * (jnp.abs(grad) + epsilon))
    # The norm is zero before the first update that is not skipped.
    denominator = jnp.maximum(second * _correction(beta1, t), jnp.finfo(grad.dtype).tiny)
    return first / denominator, first, second


def adam(
    grad: Array,
    first: Array,
    second: Array,
    share: Array,
    t: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Kingma and Ba, algorithm 1."""
    first, second = _moments(grad, first, second, share, beta1, beta2)
    denominator = jnp.sqrt(second / _correction(beta2, t)) + epsilon
    return first / (_correction(beta1, t) * denominator), first, second


def adam_tf(
    grad: Array,
    first: Array,
    second: Array,
    share: Array,
    t: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Kingma and Ba, end of section 2: Adam with epsilon on the uncorrected root, as in TensorFlow 1."""
    first, second = _moments(grad, first, second, share, beta1, beta2)
    scale = jnp.sqrt(_correction(beta2, t)) / _correction(beta1, t)
    return scale * first / (jnp.sqrt(second) + epsilon), first, second


def radam(
    grad: Array,
    first: Array,
    second: Array,
    share: Array,
    t: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Liu et al., algorithm 2, threshold 5: Adam whose step waits for the variance of 1/sqrt(v) to settle."""
    first, second = _moments(grad, first, second, share, beta1, beta2)
    mean = first / _correction(beta1, t)
    limit = 2 / (1 - beta2) - 1
    length = _approximated_length(beta2, t)
    settled = jnp.maximum(length, 5.0)
    rectification = jnp.sqrt((settled - 4) * (settled - 2) * limit / ((limit - 4) * (limit - 2) * settled))
    adaptive = rectification * mean / (jnp.sqrt(second / _correction(beta2, t)) + epsilon)
    return jnp.where(length >= 5, adaptive, mean), first, second


def lion(
    grad: Array,
    first: Array,
    second: Array,
    share: Array,
    t: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Chen et al., algorithm 2: the sign of a momentum. There is no second moment; it stays as it is."""
    del t, epsilon
    direction = jnp.sign(first + (1 - beta1) * (grad - first))
    return direction, first + share * (1 - beta2) * (grad - first), second


def _moments(
    grad: Array, first: Array, second: Array, share: Array, beta1: float, beta2: float
) -> tuple[Array, Array]:
    return first + share * (1 - beta1) * (grad - first), second + share * (1 - beta2) * (grad * grad - second)


def _correction(beta: float, t: Array) -> Array:
    """1 - beta^t, without the cancellation that float32 suffers for beta near 1."""
    return -jnp.expm1(t * _log(beta))


def _approximated_length(beta: float, t: Array) -> Array:
    """rho_t = rho_inf - 2 t beta^t / (1 - beta^t) with rho_inf = 2 / (1 - beta) - 1.

    Written with x = -t log(beta) as constant + 2 (1 - x / (e^x - 1)) / -log(beta), and the bracket as a
    series for small x, because float32 would lose the digits that decide whether rho_t reaches 5.
    """
    rate = -_log(beta)
    x = t * rate
    series = x / 2 - x**2 / 12 + x**4 / 720
    bracket = jnp.where(x < 0.5, series, 1 - x / jnp.expm1(x))
    return (2 / (1 - beta) - 1 - 2 / rate) + 2 * bracket / rate


def _log(beta: float) -> float:
    return log(beta) if beta > 0 else -1e4  # beta^t is then 0, as it should be


@dataclass(frozen=True)
class Rule:
    """An update rule and the name of its second moment in checkpoints."""

    update: Callable[..., tuple[Array, Array, Array]]
    second: str


RULES = {
    "Adamax": Rule(adamax, "exp_inf"),
    "Adam": Rule(adam, "exp_avg_sq"),
    "AdamW": Rule(adam, "exp_avg_sq"),
    "AdamTF": Rule(adam_tf, "exp_avg_sq"),
    "RAdam": Rule(radam, "exp_avg_sq"),
    "Radam": Rule(radam, "exp_avg_sq"),
    "Lion": Rule(lion, "exp_avg_sq"),
}
"""By `optimizer.type`; the original's twins spell RAdam differently."""
