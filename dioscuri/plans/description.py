"""A description of the network that a configuration builds, from its plan, without allocating it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Row = Mapping[str, int | str]
RowShapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Arrays of a training batch: name -> shape of one row, and numpy's name of the type."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """`shapes`: canonical name -> shape of every parameter; `facts`: counts, such as the latent values of an
    example; `layers`: kind of layers -> a row for each level, in order of execution; `rows`: the arrays of a
    training batch; `notes`: what is left out of a step."""

    shapes: Shapes
    facts: Mapping[str, int]
    layers: Mapping[str, Sequence[Row]]
    rows: RowShapes
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return sum(map(prod, self.shapes.values()))

    @property
    def parts(self) -> dict[str, int]:
        """Parameters by the first word of their canonical names."""
        return {
            module: sum(prod(self.shapes[name]) for name in names)
            for module, names in groupby(sorted(self.shapes), key=lambda name: name.partition(".")[0])
        }


def counted(rows: Iterable[Row], count: str) -> list[Row]:
    """Merge consecutive equal rows, with their number in the column `count`."""
    return [{**dict(row), count: len(list(same))} for row, same in groupby(tuple(r.items()) for r in rows)]


def extent(sides: Sequence[int]) -> str:
    """E.g. '16x16'."""
    return "x".join(map(str, sides))


def picture_rows(data: Any, lengths: Sequence[int] = ()) -> RowShapes:
    """Rows of pictures, or of examples with these lengths before their channels."""
    shape = (*(lengths or [data.target_res] * 2), data.channels)
    return {"image": (shape, f"uint{data.depth}")}


def token_rows(data: Any, n_tokens: int, num_classes: int) -> RowShapes:
    """Rows of tokens or, beside a tokenizer, of the pictures that it encodes in every step; and labels."""
    rows = picture_rows(data) if data.tokenizer_path else {"tokens": ((n_tokens,), "int32")}
    return {**rows, **label_rows(num_classes)}


def label_rows(num_classes: int) -> RowShapes:
    """A label, if there are classes."""
    return {"label": ((), "int32")} if num_classes else {}
