"""Update rules on flat vectors: Adamax, Adam (Kingma and Ba 2015), RAdam (Liu et al. 2020) and Lion (Chen et
al. 2023).

A rule takes the gradient (P,) and the moments, which it updates in place, scaled by `share`: 1, or 0 for a
skipped update. It returns the direction (P,), which the step multiplies by the learning rate and subtracts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """The number t >= 1 of the update, a 0-d float tensor, and both moments (P,)."""

    updates: Tensor
    first: Tensor
    second: Tensor


def adamax(
    grad: Tensor, moments: Moments, share: Tensor, beta1: float, beta2: float, epsilon: float
) -> Tensor:
    """Kingma and Ba, algorithm 2: the second moment is an infinity norm, without bias correction."""
    t, first, second = moments
    first.lerp_(grad, share * (1 - beta1))
    second.mul_(1 - share * (1 - beta2))
    torch.maximum(second, (grad.abs() + epsilon).mul_(share), out=second)
    # The norm is zero before the first update that is not skipped.
    return first / (second * _correction(beta1, t)).clamp_(min=torch.finfo(grad.dtype).tiny)


def adam(grad: Tensor, moments: Moments, share: Tensor, beta1: float, beta2: float, epsilon: float) -> Tensor:
    """Kingma and Ba, algorithm 1."""
    t, first, second = _moved(grad, moments, share, beta1, beta2)
    denominator = (second / _correction(beta2, t)).sqrt_().add_(epsilon)
    return first / denominator.mul_(_correction(beta1, t))


def adam_tf(
    grad: Tensor, moments: Moments, share: Tensor, beta1: float, beta2: float, epsilon: float
) -> Tensor:
    """Kingma and Ba, end of section 2: Adam with epsilon on the uncorrected root, as in TensorFlow 1."""
    t, first, second = _moved(grad, moments, share, beta1, beta2)
    scale = torch.sqrt(_correction(beta2, t)) / _correction(beta1, t)
    return scale * first / (second.sqrt().add_(epsilon))


def radam(
    grad: Tensor, moments: Moments, share: Tensor, beta1: float, beta2: float, epsilon: float
) -> Tensor:
    """Liu et al., algorithm 2, threshold 5: Adam whose adaptive rate is rectified for its variance."""
    t, first, second = _moved(grad, moments, share, beta1, beta2)
    mean = first / _correction(beta1, t)
    limit = 2 / (1 - beta2) - 1
    length = _approximated_length(beta2, t)
    settled = torch.clamp(length, min=5.0)
    rectification = torch.sqrt((settled - 4) * (settled - 2) * limit / ((limit - 4) * (limit - 2) * settled))
    adaptive = rectification * mean / (torch.sqrt(second / _correction(beta2, t)) + epsilon)
    return torch.where(length >= 5, adaptive, mean)


def lion(grad: Tensor, moments: Moments, share: Tensor, beta1: float, beta2: float, epsilon: float) -> Tensor:
    """Chen et al., algorithm 2: the sign of a momentum. The second moment is not used."""
    del epsilon
    direction = torch.lerp(moments.first, grad, 1 - beta1).sign_()
    moments.first.lerp_(grad, share * (1 - beta2))
    return direction


def _moved(grad: Tensor, moments: Moments, share: Tensor, beta1: float, beta2: float) -> Moments:
    moments.first.lerp_(grad, share * (1 - beta1))
    moments.second.lerp_(grad * grad, share * (1 - beta2))
    return moments


def _correction(beta: float, t: Tensor) -> Tensor:
    """1 - beta^t, without cancellation in float32 for beta near 1."""
    return -torch.expm1(t * _log(beta))


def _approximated_length(beta: float, t: Tensor) -> Tensor:
    """rho_t = rho_inf - 2 t beta^t / (1 - beta^t) with rho_inf = 2 / (1 - beta) - 1.

    With x = -t log(beta) this is constant + 2 (1 - x / (e^x - 1)) / -log(beta). For small x a series replaces
    the bracket: float32 would lose the digits that decide whether rho_t reaches 5.
    """
    rate = -_log(beta)
    x = t * rate
    series = x / 2 - x**2 / 12 + x**4 / 720
    bracket = torch.where(x < 0.5, series, 1 - x / torch.expm1(x))
    return (2 / (1 - beta) - 1 - 2 / rate) + 2 * bracket / rate


def _log(beta: float) -> float:
    return log(beta) if beta > 0 else -1e4  # beta^t is then 0, as it should be


@dataclass(frozen=True)
class Rule:
    """An update rule and the name of its second moment in checkpoints."""

    update: Callable[..., Tensor]
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
