"""Initial values of layers come from the families' tables, so torch's initialisation is skipped."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWS = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_)

Module = TypeVar("Module", bound=nn.Module)


def blank(build: Callable[[], Module]) -> Module:
    """The result of `build` in evaluation mode, with uninitialised parameters whose values must be set.

    This saves time and does not advance torch's default generator.
    """
    with _WithoutDraws():
        return build().eval()


class _WithoutDraws(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
