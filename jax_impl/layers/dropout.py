"""Dropout with given noise or, in training mode, with the framework's random numbers."""

import jax
from flax import nnx
from jax import Array

from dioscuri.errors import UserError


class Dropout(nnx.Dropout):
    """Zero with probability `rate`, the rest grows by 1 / (1 - rate).

    Given noise wins, whatever the mode: uniform on [0, 1), of the shape of x, zero where it is below the
    rate. Without it the module's random stream draws after `model.train()`, and in evaluation mode, in which
    modules begin, x stays as it is.
    """

    def __init__(self, rate: float) -> None:
        super().__init__(rate, deterministic=True)

    def __call__(  # type: ignore[override]  # noise stands for nnx's `rngs`
        self, x: Array, noise: Array | None = None
    ) -> Array:
        noise = self.draw(x.shape) if noise is None else noise
        if noise is None or not self.rate:
            return x
        return x * (noise >= self.rate).astype(x.dtype) / (1 - self.rate)

    def draw(self, shape: tuple[int, ...]) -> Array | None:
        """Noise of the mode: None in evaluation. A `UserError` if there is nothing to draw from."""
        if self.deterministic or not self.rate:
            return None
        if self.rngs is None:
            raise UserError(
                "dropout is on (model.train()) but has no random numbers: give `noise`, or a random stream "
                "with jax_impl.layers.dropout.seed_dropout, or switch it off with model.eval()"
            )
        return jax.random.uniform(self.rngs(), shape)


def seed_dropout(model: nnx.Module, seed: int) -> None:
    """Give every dropout of a model its own random stream."""
    streams = nnx.Rngs(dropout=seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Dropout) and module.rate:
            module.rngs = streams.dropout.fork()
