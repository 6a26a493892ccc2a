"""Low-rank adapters of dense layers (Hu et al. 2021, section 4.1)."""

from collections.abc import Iterable, Mapping
from typing import Any

from einops import repeat
from torch import Tensor, nn

from dioscuri.errors import UserError
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans.lora import NOISE, is_adapter
from torch_impl.layers.attention import PackedAttention
from torch_impl.layers.convolution import POINTWISE, pointwise, pointwise_product
from torch_impl.layers.dropout import Dropout


class Adapted(nn.Module):
    """A layer of another class with an adapter beside it. The layer's weights keep their names.

    The package peft would bring the library transformers along.
    """

    def _add_adapter(self, first: nn.Module, second: nn.Module, options: LoRA) -> None:
        self.lora_A, self.lora_B = first, second
        self.dropout = Dropout(options.dropout)
        self.scale = options.scale
        self.mask: Tensor | None = None
        """Factors (B, I) of the adapter's input, in place of dropout."""

    def _adapter(self, x: Tensor) -> Tensor:
        """scale B A dropout(x)."""
        x = self.dropout(x) if self.mask is None else x * self._factors(self.mask, x)
        y: Tensor = self.scale * self.lora_B(self.lora_A(x))
        return y

    def _factors(self, mask: Tensor, x: Tensor) -> Tensor:
        return over_positions(mask, x)


class LoRALinear(Adapted, nn.Linear):
    """W x + b + scale B A dropout(x): (..., I) -> (..., O)."""

    def __init__(self, layer: nn.Linear, options: LoRA) -> None:
        inputs, outputs = layer.in_features, layer.out_features
        super().__init__(inputs, outputs, bias=layer.bias is not None)
        first, second = (
            nn.Linear(inputs, options.rank, bias=False),
            nn.Linear(options.rank, outputs, bias=False),
        )
        self._add_adapter(first, second, options)

    def forward(self, x: Tensor) -> Tensor:
        return nn.Linear.forward(self, x) + self._adapter(x)


class LoRAPointwise(Adapted):
    """The same for a 1x1 convolution of maps: (B, I, ...) -> (B, O, ...)."""

    def __init__(self, layer: Any, options: LoRA) -> None:
        super().__init__()
        rank, inputs, outputs = layer.weight.ndim - 2, layer.in_channels, layer.out_channels
        self.weight, self.bias = layer.weight, layer.bias
        first, second = (
            pointwise(rank, i, o, bias=False) for i, o in ((inputs, options.rank), (options.rank, outputs))
        )
        self._add_adapter(first, second, options)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_product(x, self.weight, self.bias) + self._adapter(x)

    def _factors(self, mask: Tensor, x: Tensor) -> Tensor:
        return mask.reshape(*mask.shape, *[1] * (x.ndim - 2)).to(x.dtype)


class LoRAPackedAttention(Adapted, PackedAttention):
    """Attention whose queries, keys and values, in one matrix, have one adapter: (B, L, C) -> (B, L, C)."""

    def __init__(self, layer: PackedAttention, options: LoRA) -> None:
        width = len(layer.in_proj_weight) // 3
        super().__init__(width, layer.heads)
        self.out_proj = layer.out_proj
        first, second = (
            nn.Linear(width, options.rank, bias=False),
            nn.Linear(options.rank, 3 * width, bias=False),
        )
        self._add_adapter(first, second, options)

    def project(self, x: Tensor) -> Tensor:
        return super().project(x) + self._adapter(x)


_ADAPTED: dict[type, type[Adapted]] = {
    nn.Linear: LoRALinear,
    PackedAttention: LoRAPackedAttention,
    **dict.fromkeys(POINTWISE, LoRAPointwise),
}


def adapt(model: Any, names: Iterable[str], options: LoRA) -> Any:
    """Give layers of a model adapters, in place; nothing else of it is trained from then on. A `UserError`
    names a layer that cannot have one."""
    model.requires_grad_(False)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        layer = model.get_submodule(name)
        make: Any = _ADAPTED.get(type(layer))
        if make is None:
            raise UserError(f"[lora] targets: '{name}' is a {type(layer).__name__}, not a dense layer")
        setattr(model.get_submodule(owner), leaf, make(layer, options).train(layer.training))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
    return model


def adapted_layers(model: Any) -> dict[str, Adapted]:
    """The layers of a model that have adapters, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Adapted)}


def set_masks(model: Any, noise: Mapping[str, Tensor], rate: float) -> None:
    """Let uniform noise (B, I) decide, by the layer's name, what the adapters of a model drop; without noise,
    their dropout does."""
    for name, layer in adapted_layers(model).items():
        uniform = noise.get(NOISE + name)
        layer.mask = None if uniform is None else (uniform >= rate).to(uniform.dtype) / (1 - rate)


def over_positions(mask: Tensor, x: Tensor) -> Tensor:
    """A mask (B, I) with the rank of x (B, ..., I), or of groups of positions (B G, ..., I)."""
    mask = repeat(mask, "b i -> (b g) i", g=len(x) // len(mask))
    return mask.reshape(len(mask), *[1] * (x.ndim - 2), -1).to(x.dtype)
