"""Update rules as optax transformations: Adamax, Adam (Kingma and Ba 2015), RAdam (Liu et al. 2020) and Lion
(Chen et al. 2023).

Each maps gradients to directions, which the step multiplies by the learning rate and subtracts. The state of
every rule is `Moments`, as in checkpoints. Where optax's rule is not used, the docstring says why.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Moments(NamedTuple):
    """State of every rule: the number of updates so far, and two trees like the parameters."""

    updates: Array
    first: optax.Updates
    second: optax.Updates


Direction = Callable[[Array, Array, Array, Array], tuple[Array, Array, Array]]
"""(gradient, first, second, number t >= 1 of the update) -> direction and new moments."""


def adamax(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Kingma and Ba, algorithm 2: the second moment is an infinity norm, without bias correction.

    optax's divides 0 by 0 if the gradient and epsilon are zero.
    """

    def direction(grad: Array, first: Array, second: Array, t: Array) -> tuple[Array, Array, Array]:
        first = _towards(grad, first, beta1)
        second = optax.tree.update_infinity_moment(grad, second, beta2, epsilon)
        denominator = jnp.maximum(second * _correction(beta1, t), jnp.finfo(grad.dtype).tiny)
        return first / denominator, first, second

    return _transformation(direction)


def adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Kingma and Ba, algorithm 1.

    optax's computes 1 - beta^t and beta m + (1 - beta) g, which lose up to four
    digits in float32 for beta near 1.
    """

    def direction(grad: Array, first: Array, second: Array, t: Array) -> tuple[Array, Array, Array]:
        first, second = _towards(grad, first, beta1), _towards(grad * grad, second, beta2)
        denominator = jnp.sqrt(second / _correction(beta2, t)) + epsilon
        return first / (_correction(beta1, t) * denominator), first, second

    return _transformation(direction)


def adam_tf(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Kingma and Ba, end of section 2: Adam with epsilon on the uncorrected root, as in TensorFlow 1, which
    optax does not have."""

    def direction(grad: Array, first: Array, second: Array, t: Array) -> tuple[Array, Array, Array]:
        first, second = _towards(grad, first, beta1), _towards(grad * grad, second, beta2)
        scale = jnp.sqrt(_correction(beta2, t)) / _correction(beta1, t)
        return scale * first / (jnp.sqrt(second) + epsilon), first, second

    return _transformation(direction)


def radam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Liu et al., algorithm 2, threshold 5: Adam whose adaptive rate is rectified for its variance.

    In optax's, float32 loses the digits that decide whether rho_t reaches 5.
    """

    def direction(grad: Array, first: Array, second: Array, t: Array) -> tuple[Array, Array, Array]:
        first, second = _towards(grad, first, beta1), _towards(grad * grad, second, beta2)
        mean = first / _correction(beta1, t)
        limit = 2 / (1 - beta2) - 1
        length = _approximated_length(beta2, t)
        settled = jnp.maximum(length, 5.0)
        rectification = jnp.sqrt(
            (settled - 4) * (settled - 2) * limit / ((limit - 4) * (limit - 2) * settled)
        )
        adaptive = rectification * mean / (jnp.sqrt(second / _correction(beta2, t)) + epsilon)
        return jnp.where(length >= 5, adaptive, mean), first, second

    return _transformation(direction)


def lion(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Chen et al., algorithm 2, from optax: the sign of a momentum. The second moment is not used."""
    del epsilon
    rule = optax.scale_by_lion(beta1, beta2)

    def update(
        updates: optax.Updates, state: Moments, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Moments]:
        before = optax.ScaleByLionState(state.updates, state.first)
        direction, (count, first) = rule.update(updates, before, params)
        return direction, Moments(count, first, state.second)

    return optax.GradientTransformation(_start, update)


def _start(params: optax.Params) -> Moments:
    zeros = optax.tree.zeros_like(params)
    return Moments(jnp.zeros((), jnp.int32), zeros, zeros)


def _transformation(direction: Direction) -> optax.GradientTransformation:
    def update(
        updates: optax.Updates, state: Moments, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Moments]:
        del params
        count = optax.safe_increment(state.updates)

        def leaf(grad: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
            return direction(grad, first, second, count.astype(grad.dtype))

        results = jax.tree.map(leaf, updates, state.first, state.second)
        structure = jax.tree.structure(updates), jax.tree.structure((0, 0, 0))
        directions, first, second = jax.tree.transpose(*structure, results)
        return directions, Moments(count, first, second)

    return optax.GradientTransformation(_start, update)


def _towards(new: Array, moment: Array, beta: float) -> Array:
    return moment + (1 - beta) * (new - moment)


def _correction(beta: float, t: Array) -> Array:
    """1 - beta^t, without cancellation in float32 for beta near 1."""
    return -jnp.expm1(t * _log(beta))


def _approximated_length(beta: float, t: Array) -> Array:
    """rho_t = rho_inf - 2 t beta^t / (1 - beta^t) with rho_inf = 2 / (1 - beta) - 1.

    With x = -t log(beta) this is constant + 2 (1 - x / (e^x - 1)) / -log(beta). For small x a series replaces
    the bracket: float32 would lose the digits that decide whether rho_t reaches 5.
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

    update: Callable[[float, float, float], optax.GradientTransformation]
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
"""Rules by `optimizer.type`; the two original programs spell RAdam differently."""
