"""The interface between a model and its twin: `<twin>/inference.py` has a class `Network`."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dioscuri.engine import Array
from dioscuri.errors import UserError, did_you_mean

PRECISIONS = ("float32", "bfloat16", "float64")
"""Precisions of networks, as in `train.precision`."""


class Network(Protocol):
    """A family's network on one device, without what only training needs.

    Batches and results are numpy arrays with rows first, as in `dioscuri.engine.Engine.run`.
    """

    name: str  # "torch" or "jax"
    hparams: Any
    module: Any
    buffers: dict[str, Any]

    def __init__(
        self,
        hparams: Any,
        weights: Mapping[str, Array],
        device: Any = None,
        buffers: Mapping[str, Any] | None = None,
    ) -> None:
        """`weights` have canonical names; `hparams.train.precision` is the precision. `buffers` default to
        the initial ones of a training run."""

    @property
    def device(self) -> Any:
        """The device of the weights."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""

    def machine(self) -> dict[str, Any]:
        """What, beside versions, decides how results are rounded: `device`, its kind, and `threads`."""

    def run(
        self,
        method: str,
        batch: Mapping[str, Any],
        *,
        seed: int = 0,
        step: int = 0,
        noise: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a method of the family without gradients. Noise follows from (seed, method, step), or is given
        as arrays with rows first."""

    def caller(self) -> Callable[..., dict[str, Any]]:
        """`run(method, batch, **options)` for many small calls: without noise, with the weights as they are
        now, for any number of rows. Results may stay on the device; the next call takes them, numpy too."""

    def noise_specs(self, method: str, rows: int, **options: Any) -> tuple[Any, ...]:
        """The noise that a method uses, as `dioscuri.plans.noise.NoiseSpec`."""

    def loss(self, *given: Any, scalars: Mapping[str, float], noise: Any, tokenizer: "Network | None") -> Any:
        """The training objective: `loss(batch)` in PyTorch, `loss(state, batch, key, buffers)` in JAX,
        where `buffers` is optional."""

    def weights(self) -> dict[str, Array]:
        """Parameters under canonical names and in canonical layouts, float32 or float64."""


def precision_of(dtype: Any) -> str:
    """A precision's name from any way to write it: 'bfloat16', torch.bfloat16, jnp.bfloat16, np.float64."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    name = name.rpartition(".")[2]
    if name not in PRECISIONS:
        raise UserError(
            f"dtype '{name}' is unknown{did_you_mean(name, PRECISIONS)}: take {', '.join(PRECISIONS)}"
        )
    return name
