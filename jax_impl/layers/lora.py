"""Low-rank adapters of dense layers (Hu et al. 2021, section 4.1)."""

from collections.abc import Iterable, Mapping
from typing import Any

from einops import repeat
from flax import nnx
from jax import Array

from dioscuri.errors import UserError
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans.lora import NOISE
from jax_impl.layers.dense import Linear
from jax_impl.layers.dropout import Dropout


class Mask(nnx.Variable[Any]):
    """Factors of an adapter's input."""


class LoRALinear(Linear):
    """W x + b + scale B A dropout(x): (..., I) -> (..., O). The weights of the dense layer itself keep their
    names; only the adapter's, of type `nnx.LoRAParam`, are trained.

    `nnx.LoRALinear` has neither scale nor dropout.
    """

    mask: Mask | None = None
    """Factors (B, I) of the adapter's input, in place of dropout."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, options: LoRA) -> None:
        super().__init__(in_features, out_features, use_bias=bias)
        self.lora_A = _trained(Linear(in_features, options.rank, use_bias=False))
        self.lora_B = _trained(Linear(options.rank, out_features, use_bias=False))
        self.dropout = Dropout(options.dropout)
        self.scale = options.scale

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # as Linear
        adapted = self.dropout(x) if self.mask is None else x * over_positions(self.mask[...], x)
        return super().__call__(x) + self.scale * self.lora_B(self.lora_A(adapted))


def adapt(model: Any, names: Iterable[str], options: LoRA) -> Any:
    """Give dense layers of a model adapters, in place. A `UserError` names a layer that is not dense."""
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        layer = modules[name]
        if type(layer) is not Linear:
            raise UserError(f"[lora] targets: '{name}' is a {type(layer).__name__}, not a dense layer")
        bias = layer.bias is not None
        adapter = LoRALinear(layer.in_features, layer.out_features, bias=bias, options=options)
        parent: Any = modules[owner]
        if isinstance(parent, nnx.List):
            parent[int(leaf)] = adapter
        else:
            setattr(parent, leaf, adapter)
    return model


def adapted_layers(model: Any) -> dict[str, LoRALinear]:
    """The layers of a model that have adapters, by name."""
    return {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, LoRALinear)
    }


def trained_kind(model: Any) -> Any:
    """The kind of a model's variables that are trained: those of adapters, if it has any."""
    has_adapters = bool(nnx.to_flat_state(nnx.state(model, nnx.LoRAParam)))
    return nnx.LoRAParam if has_adapters else nnx.Param


def set_masks(model: Any, noise: Mapping[str, Array], rate: float) -> None:
    """Let uniform noise (B, I) decide, by the layer's name, what the adapters of a model drop."""
    for name, layer in adapted_layers(model).items():
        if (uniform := noise.get(NOISE + name)) is not None:
            layer.mask = Mask((uniform >= rate) / (1 - rate))


def over_positions(mask: Array, x: Array) -> Array:
    """A mask (B, I) with the rank of x (B, ..., I), or of groups of positions (B G, ..., I)."""
    mask = repeat(mask, "b i -> (b g) i", g=len(x) // len(mask))
    return mask.reshape(len(mask), *[1] * (x.ndim - 2), -1).astype(x.dtype)


def _trained(layer: Linear) -> Linear:
    layer.kernel = nnx.LoRAParam(layer.kernel[...])
    return layer
