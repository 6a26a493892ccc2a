"""All parameters in one vector: modules see views of it, and gradients are gathered into another one."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dioscuri.plans.layout import Layout, make_layout


def memory_axes(n: int) -> tuple[int, ...]:
    """Order of a tensor's `n` axes in the vector: kernels and image-shaped parameters lie channels last."""
    return (0, *range(2, n), 1) if n >= 3 else tuple(range(n))


def flat_layout(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], decayed: Callable[[str], bool]
) -> Layout:
    """Layout of a model's trained parameters, whose names and shapes must be those of the family's table."""
    model_shapes = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    differing = [name for name in {**model_shapes, **shapes} if model_shapes.get(name) != shapes.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"parameter '{name}': model has {model_shapes.get(name)}, table has {shapes.get(name)}"
        )
    return make_layout(shapes, decayed, lambda _, shape: memory_axes(len(shape)))


def views(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Views of the vector (P,) in canonical shapes, strided as they lie in memory."""
    return {
        slot.name: flat[slot.start : slot.stop].view(slot.memory_shape).permute(slot.inverse_axes)
        for slot in layout.slots
    }


def bind(model: nn.Module, flat: Tensor, layout: Layout) -> list[nn.Parameter]:
    """Make the model's parameters views of the vector; return them in the layout's order."""
    parameters = []
    for name, view in views(flat, layout).items():
        owner, _, leaf = name.rpartition(".")
        parameter = nn.Parameter(view)
        setattr(model.get_submodule(owner), leaf, parameter)
        parameters.append(parameter)
    return parameters


def write(flat: Tensor, values: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """The vector (P,) with some of its tensors, given in canonical shapes, replaced."""
    flat = flat.clone()
    targets = views(flat, layout)
    for name, value in values.items():
        targets[name].copy_(value)
    return flat


def gather(target: Sequence[Tensor], grads: Sequence[Tensor], *, accumulate: bool) -> None:
    """Write gradients into (or add them to) the views of the gradient's vector."""
    if accumulate:
        torch._foreach_add_(list(target), list(grads))
    else:
        torch._foreach_copy_(list(target), list(grads))
