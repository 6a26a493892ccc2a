"""Low-rank adapters of dense layers (Hu et al. 2021, section 4.1)."""

from collections.abc import Iterable, Mapping
from typing import Any

from einops import repeat
from torch import Tensor, nn

from dioscuri.errors import UserError
from dioscuri.hparams.adapters import LoRA
from dioscuri.plans.lora import NOISE, is_adapter
from torch_impl.layers.dropout import Dropout


class LoRALinear(nn.Linear):
    """W x + b + scale B A dropout(x): (..., I) -> (..., O). The weights of the dense layer itself keep their
    names and are not trained.

    The package peft would bring the library transformers along.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, options: LoRA) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.requires_grad_(False)
        self.lora_A = nn.Linear(in_features, options.rank, bias=False)
        self.lora_B = nn.Linear(options.rank, out_features, bias=False)
        self.dropout = Dropout(options.dropout)
        self.scale = options.scale
        self.mask: Tensor | None = None
        """Factors (B, I) of the adapter's input, in place of dropout."""

    def forward(self, x: Tensor) -> Tensor:
        adapted = self.dropout(x) if self.mask is None else x * over_positions(self.mask, x)
        return super().forward(x) + self.scale * self.lora_B(self.lora_A(adapted))


def adapt(model: Any, names: Iterable[str], options: LoRA) -> Any:
    """Give dense layers of a model adapters, in place; nothing else of it is trained from then on. A
    `UserError` names a layer that is not dense."""
    model.requires_grad_(False)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        layer = model.get_submodule(name)
        if type(layer) is not nn.Linear:
            raise UserError(f"[lora] targets: '{name}' is a {type(layer).__name__}, not a dense layer")
        bias = layer.bias is not None
        adapter = LoRALinear(layer.in_features, layer.out_features, bias=bias, options=options)
        setattr(model.get_submodule(owner), leaf, adapter.train(layer.training))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
    return model


def adapted_layers(model: Any) -> dict[str, LoRALinear]:
    """The layers of a model that have adapters, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}


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
