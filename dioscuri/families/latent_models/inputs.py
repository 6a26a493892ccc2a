"""Checks of what a user gives a model with groups of latents: temperatures and latents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dioscuri.engine import Array
from dioscuri.errors import UserError, quoted
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.hparams.schema import LARGEST
from dioscuri.inputs import check_names, is_number, read_pictures, to_array, to_plain


def read_temperatures(plan: LatentPlan, given: Any) -> Array:
    """One temperature per latent group."""
    values = to_plain(given)
    numbers = values if isinstance(values, list) else [values]
    setting = tuple(numbers) if isinstance(values, list) else values
    ends = numbers[1:] if numbers and numbers[0] == "linear" else numbers
    if not ends or not all(is_number(value, 0, LARGEST) for value in ends):
        raise UserError(
            f"temperature must be a number from 0 to {LARGEST:g}, one per level or group, or "
            f"('linear', first, last), not {quoted(given)}"
        )
    try:
        return np.asarray(level_temperatures(plan, setting), np.float32)
    except UserError as error:
        raise UserError(str(error).replace("[synthesis] temperature_settings", "temperature")) from error


def read_latents(plan: LatentPlan, codes: Any) -> tuple[dict[str, Array], Sequence[Array]]:
    """`z.<l>` of all groups, zero if not given, and masks that say which are given."""
    names = [f"z.{group}" for group in range(len(plan.groups))]
    if not isinstance(codes, Mapping):
        raise UserError(f"latents must be arrays by name, {names[0]} ... {names[-1]}, as encode returns them")
    given = {name: value for name, value in codes.items() if not str(name).startswith(("mean.", "std."))}
    check_names(given, names, "latents:")
    if not given:
        raise UserError(f"latents must hold at least one of {names[0]} ... {names[-1]}")
    arrays = {name: to_array(value, f"latents '{name}' must be an array") for name, value in given.items()}
    n, rows, masks = len(np.atleast_1d(next(iter(arrays.values())))), {}, []
    for group, name in enumerate(names):
        shape = plan.latent_shape(group, n)
        if name in arrays and (arrays[name].shape != shape or not n):
            form = f"(N, {', '.join(map(str, shape[1:]))}), all of one N"
            raise UserError(f"latents '{name}' must be {form}; got {arrays[name].shape}")
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise UserError(f"latents '{name}' hold values that are not finite")
        rows[name] = arrays[name].astype(np.float32) if name in arrays else np.zeros(shape, np.float32)
        masks.append(np.full(shape[-1], name in arrays, np.float32))
    return rows, masks


def read_one_or_more(
    given: Any, shape: tuple[int, ...], dtype: type[np.unsignedinteger], what: str
) -> tuple[Array, bool]:
    """Pictures (N, *shape), and whether the input was a single one without the axis N."""
    single = tuple(getattr(given, "shape", ())) == shape
    if single:
        given = to_array(given, f"{what} must be pictures")[None]
    pictures = read_pictures(given, shape, what=what, dtype=dtype)
    return pictures, single or isinstance(given, Image.Image)


def read_pairs(
    a: Any, b: Any, shape: tuple[int, ...], dtype: type[np.unsignedinteger]
) -> tuple[tuple[Array, Array], bool]:
    """As many pictures of a as of b, and whether they are single ones."""
    first, single = read_one_or_more(a, shape, dtype, "a")
    second, _ = read_one_or_more(b, shape, dtype, "b")
    if len(first) != len(second):
        raise UserError(f"a holds {len(first)} pictures and b {len(second)}: give the same number")
    return (first, second), single
