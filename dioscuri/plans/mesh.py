"""How the devices of a run are arranged: copies of the state, each spread over some of the devices."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dioscuri.errors import UserError

AXES = ("data", "shard")
_AXIS = re.compile(r"([a-z]+) *= *([1-9][0-9]{0,6})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """`data` copies of the state, each spread over `shard` devices that follow each other. The rows of a
    batch are spread over all devices."""

    data: int = 1
    shard: int = 1

    @property
    def devices(self) -> int:
        """Number of all devices."""
        return self.data * self.shard

    def __str__(self) -> str:
        return f"data={self.data},shard={self.shard}"


def mesh_of(train: Any, devices: int) -> MeshShape:
    """How `train.shard` and `train.shard_devices` arrange devices; a `UserError` if they cannot."""
    if train.shard == "none" or devices == 1:
        return MeshShape(data=devices)
    shard = train.shard_devices or devices
    if devices % shard:
        raise UserError(
            f"[train] shard_devices is {shard}, which does not divide the {devices} devices: each copy of "
            "the state takes as many; set it to a divisor, or to 0 for one copy on all devices"
        )
    return MeshShape(data=devices // shard, shard=shard)


def check_mesh(mesh: MeshShape, shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise a `UserError` if some devices of a mesh would hold nothing of the parameters, of which each gets
    rows."""
    rows = max(shape[0] for shape in shapes)
    if mesh.shard > rows:
        raise UserError(
            f"mesh {mesh} does not fit the model: its parameters have at most {rows:,} rows to share, so "
            f"{mesh.shard - rows:,} of {mesh.shard:,} devices would hold nothing: take at most shard={rows}"
        )


def read_mesh(text: str, where: str) -> MeshShape:
    """The mesh of e.g. 'data=8,shard=8', of which one axis may be left out; a `UserError` for anything
    else."""
    pairs = [_AXIS.fullmatch(word.strip()) for word in text.split(",")]
    axes = {pair[1]: int(pair[2]) for pair in pairs if pair}
    if not all(pairs) or len(axes) < len(pairs) or not set(axes) <= set(AXES):
        raise UserError(
            f"{where} '{text}' is not a mesh: give whole numbers of the axes data (copies of the state) and "
            "shard (devices that share one), as data=8,shard=8"
        )
    return MeshShape(**axes)
