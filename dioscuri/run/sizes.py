"""How large a model is: its parameters, and the bytes of what a run keeps of it."""

from collections.abc import Mapping
from math import prod
from typing import Any

from dioscuri.engine import State

GROUPS = {"weights": "model", "average": "ema", "optimizer": "optimizer"}
"""What is told, and the group of a state that holds it."""
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def sizes(state: State, facts: Mapping[str, int]) -> dict[str, int]:
    """`parameters`, what a family adds, and `<group>_bytes` of weights, average and optimiser."""
    tensors = {name: state.get(group, {}).values() for name, group in GROUPS.items()}
    return {
        "parameters": sum(prod(tensor.shape) for tensor in tensors["weights"]),
        **facts,
        **{f"{name}_bytes": sum(tensor.nbytes for tensor in held) for name, held in tensors.items()},
    }


def told(size: Mapping[str, Any]) -> str:
    """E.g. '12,345 parameters, 3 latent groups; weights 49.4 kB, average 49.4 kB, optimizer 98.8 kB'."""
    counts = [f"{n:,} {name.replace('_', ' ')}" for name, n in size.items() if not name.endswith("_bytes")]
    held = [f"{name} {bytes_told(size[f'{name}_bytes'])}" for name in GROUPS]
    return f"{', '.join(counts)}; {', '.join(held)}"


def bytes_told(n: int) -> str:
    """In the largest decimal unit of which there is at least one."""
    power = min((len(str(n)) - 1) // 3, len(UNITS) - 1)
    return f"{n} bytes" if power == 0 else f"{n / 1000**power:.1f} {UNITS[power]}"
