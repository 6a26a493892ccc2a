"""Size of a model: its parameters, and the bytes of its weights, average and optimiser state."""

from collections.abc import Mapping
from math import prod
from typing import Any

from dioscuri.contract import family_of
from dioscuri.engine import Engine, State
from dioscuri.errors import UserError
from dioscuri.plans.footprint import machine_bytes
from dioscuri.plans.lora import adapters_of, trained_shapes

GROUPS = {"weights": "model", "average": "ema", "optimizer": "optimizer"}
"""Reported names, and the groups of a state that they stand for."""
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def sizes(state: State, facts: Mapping[str, int]) -> dict[str, int]:
    """`parameters`, the family's facts, and `<group>_bytes` of weights, average and optimiser."""
    tensors = {name: state.get(group, {}).values() for name, group in GROUPS.items()}
    return {
        "parameters": sum(prod(tensor.shape) for tensor in tensors["weights"]),
        **facts,
        **{f"{name}_bytes": sum(tensor.nbytes for tensor in memory) for name, memory in tensors.items()},
    }


def size_line(size: Mapping[str, Any]) -> str:
    """E.g. '12,345 parameters, 3 latent groups; weights 49.4 kB, average 49.4 kB, optimizer 98.8 kB'."""
    counts = [f"{n:,} {name.replace('_', ' ')}" for name, n in size.items() if not name.endswith("_bytes")]
    memory = [f"{name} {format_bytes(size[f'{name}_bytes'])}" for name in GROUPS]
    return f"{', '.join(counts)}; {', '.join(memory)}"


def memory_line(engine: Engine, shard: str) -> str:
    """What each device holds, as measured."""
    held = engine.memory()
    groups = ", ".join(f"{name} {format_bytes(held[name])}" for name in GROUPS)
    return (
        f"each of {engine.device_count} devices holds {groups} (train.shard={shard}); "
        f"at most {format_bytes(held['peak'])} used so far"
    )


def format_bytes(n: int) -> str:
    """A number of bytes in the largest suitable decimal unit."""
    power = min((len(str(n)) - 1) // 3, len(UNITS) - 1)
    return f"{n} bytes" if power == 0 else f"{n / 1000**power:.1f} {UNITS[power]}"


def held_bytes(hparams: Any, *, training: bool = True) -> int:
    """Bytes of what a run holds throughout: weights and, in training, average and two moments; of a run of
    adapters also the base, in the precision of the computation."""
    network = family_of(hparams).network_shapes(hparams)
    numbers = (4 if training else 1) * sum(map(prod, trained_shapes(hparams, network).values()))
    base = sum(map(prod, network.values())) if adapters_of(hparams) else 0
    precision = hparams.train.precision
    width = 8 if precision == "float64" else 4
    return width * numbers + (2 if precision == "bfloat16" else width) * base


def check_memory(hparams: Any, *, training: bool = True) -> None:
    """Raise a `UserError` if this machine has less memory than a run on its CPU holds throughout."""
    what = "weights, average and optimiser" if training else "weights"
    held, there = held_bytes(hparams, training=training), machine_bytes()
    if not hparams.run.num_gpus and 0 < there < held:
        raise UserError(
            f"{what} of this model take {format_bytes(held)}, but this machine has "
            f"{format_bytes(there)} of memory, {held - there:,} bytes too little: take a smaller model or "
            "another machine; 'dioscuri describe' tells what fits"
        )
