"""Low-rank adapters of dense layers (Hu et al. 2021, section 4.1)."""

from collections.abc import Iterable, Mapping
from typing import Any

from einops import repeat
from flax import nnx
from jax import Array

from dioscuri.errors import UserError
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans.lora import NOISE
from jax_impl.layers.attention import PackedAttention
from jax_impl.layers.dense import Linear
from jax_impl.layers.dropout import Dropout


class Mask(nnx.Variable[Any]):
    """Factors of an adapter's input."""


class Adapted(nnx.Module):
    """A layer of another class with an adapter beside it. The layer's weights keep their names; only the
    adapter's, of type `nnx.LoRAParam`, are trained.

    `nnx.LoRALinear` has neither scale nor dropout.
    """

    mask: Mask | None = None
    """Factors (B, I) of the adapter's input, in place of dropout."""

    def _add_adapter(self, inputs: int, outputs: int, options: LoRA) -> None:
        self.lora_A = _trained(Linear(inputs, options.rank, use_bias=False))
        self.lora_B = _trained(Linear(options.rank, outputs, use_bias=False))
        self.dropout = Dropout(options.dropout)
        self.scale = options.scale

    def _adapter(self, x: Array) -> Array:
        """scale B A dropout(x)."""
        x = self.dropout(x) if self.mask is None else x * over_positions(self.mask[...], x)
        return self.scale * self.lora_B(self.lora_A(x))


class LoRALinear(Adapted, Linear):
    """W x + b + scale B A dropout(x): (..., I) -> (..., O), also of maps, whose 1x1 convolutions are dense
    layers."""

    def __init__(self, layer: Linear, options: LoRA) -> None:
        inputs, outputs = layer.in_features, layer.out_features
        Linear.__init__(self, inputs, outputs, use_bias=layer.bias is not None)
        self._add_adapter(inputs, outputs, options)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # as Linear
        return Linear.__call__(self, x) + self._adapter(x)


class LoRAPackedAttention(Adapted, PackedAttention):
    """Attention whose queries, keys and values, in one matrix, have one adapter: (B, L, C) -> (B, L, C)."""

    def __init__(self, layer: PackedAttention, options: LoRA) -> None:
        width = len(layer.in_proj_weight) // 3
        super().__init__(width, layer.heads)
        self.out_proj = layer.out_proj
        self._add_adapter(width, 3 * width, options)

    def project(self, x: Array) -> Array:
        return super().project(x) + self._adapter(x)


_ADAPTED: dict[type, Any] = {Linear: LoRALinear, PackedAttention: LoRAPackedAttention}


def adapt(model: Any, names: Iterable[str], options: LoRA) -> Any:
    """Give layers of a model adapters, in place. A `UserError` names a layer that cannot have one."""
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        layer = modules[name]
        make = _ADAPTED.get(type(layer))
        if make is None:
            raise UserError(f"[lora] targets: '{name}' is a {type(layer).__name__}, not a dense layer")
        parent: Any = modules[owner]
        modules[name] = make(layer, options)
        if isinstance(parent, nnx.List):
            parent[int(leaf)] = modules[name]
        else:
            setattr(parent, leaf, modules[name])
    return model


def adapted_layers(model: Any) -> dict[str, Adapted]:
    """The layers of a model that have adapters, by name."""
    return {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, Adapted)
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
