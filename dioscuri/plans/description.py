"""A description of the network that a configuration builds, from its plan, without allocating it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

Shapes = Mapping[str, tuple[int, ...]]
Row = Mapping[str, int | str]


@dataclass(frozen=True, kw_only=True)
class Description:
    """`shapes`: canonical name -> shape of every parameter; `facts`: counts, such as the latent values of an
    example; `layers`: kind of layers -> a row for each level, in order of execution."""

    shapes: Shapes
    facts: Mapping[str, int]
    layers: Mapping[str, Sequence[Row]]

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return sum(map(prod, self.shapes.values()))

    @property
    def parts(self) -> dict[str, int]:
        """Parameters by the first word of their canonical names."""
        return {
            part: sum(prod(self.shapes[name]) for name in names)
            for part, names in groupby(sorted(self.shapes), key=lambda name: name.partition(".")[0])
        }


def counted(rows: Iterable[Row], count: str) -> list[Row]:
    """Merge consecutive equal rows, with their number in the column `count`."""
    return [{**dict(row), count: len(list(same))} for row, same in groupby(tuple(r.items()) for r in rows)]


def extent(sides: Sequence[int]) -> str:
    """E.g. '16x16'."""
    return "x".join(map(str, sides))
