"""Checks of a model's inputs: pictures, classes, tokens, masks, and names of arrays.

The library and the command line call the same functions, so both refuse the same inputs with the same
messages. Every function returns numpy arrays, or raises a `UserError` that says what was given and what is
expected.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf, prod
from typing import Any

import numpy as np
from PIL import Image

from dioscuri.errors import UserError, did_you_mean, kind_of, quoted

Array = np.ndarray

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""PIL's mode by number of channels."""
LARGEST_COUNT = 10**9
"""Upper limit of counts, as of the options of a `.cfg`."""
_ROUNDING = 1e-6
"""How far floats may lie outside [0, 1], for rounding errors of float32."""


def read_pictures(
    given: Any, shape: tuple[int, ...], *, what: str = "pictures", dtype: type[np.unsignedinteger] = np.uint8
) -> Array:
    """Pictures as unsigned integers (N, *shape), where `shape` is (H, W, C), (L, C) for sounds or
    (T, H, W, C) for clips.

    Accepts a PIL image or a list of them, arrays of `dtype` (N, *shape), and floats in [0, 1], which are
    scaled and rounded. The axis of a single channel may be left out. Arrays of either framework work too.
    """
    rule = f"{what} must be {_rule(shape, dtype)}"
    if isinstance(given, Image.Image):
        given = [given]
    if isinstance(given, list | tuple) and given and all(isinstance(item, Image.Image) for item in given):
        return _from_images(given, shape, rule, what)
    array = to_array(given, rule)
    if shape[-1] == 1 and array.shape[1:] == shape[:-1]:
        array = array[..., None]
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape or not len(array):
        raise UserError(f"{rule}; got {array.dtype} {array.shape}{_hint_of_shape(array, shape)}")
    if array.dtype.kind == "f":
        return _from_floats(array, rule, dtype)
    if array.dtype != dtype:
        raise UserError(f"{rule}; got {array.dtype} {array.shape}{_hint_of_values(array, dtype)}")
    return array


def read_classes(given: Any, n_classes: int, *, where: str = "classes", n: int | None = None) -> Array:
    """Classes as int32 (N,): a number or a sequence of them, each at least 0 and below `n_classes`.

    If `n` is given, there must be n classes, or one for all.
    """
    if not n_classes:
        raise UserError(f"{where} is given, but the model has no classes: leave it out")
    rule = f"{where} must be whole numbers (N,) from 0 to {n_classes - 1}"
    array = np.atleast_1d(to_array(given, rule))
    if array.dtype.kind not in "iu" or array.ndim != 1 or not len(array):
        raise UserError(f"{rule}; got {array.dtype} {array.shape}")
    check_classes(array.tolist(), n_classes, where)
    if n is not None and len(array) not in (1, n):
        raise UserError(
            f"{where} holds {len(array)} classes for {n} pictures: give {n} classes, or one for all"
        )
    return np.broadcast_to(array, n if n is not None else len(array)).astype(np.int32)


def check_classes(classes: Iterable[int], n_classes: int, where: str) -> None:
    """Raise a `UserError` that names the first class that the model lacks."""
    if not n_classes and (classes := tuple(classes)):
        raise UserError(f"{where} holds {classes[0]}: the model has no classes; leave it out")
    for number in classes:
        if not 0 <= number < n_classes:
            raise UserError(f"{where} holds {number}: the model has {n_classes} classes, counted from 0")


def read_tokens(given: Any, shape: tuple[int, ...], codebook_size: int, *, what: str = "tokens") -> Array:
    """Tokens as int32 (N, L), those of a grid row by row, from whole numbers below `codebook_size`, (N, L) or
    (N, *shape), where `shape` is that of a picture's tokens."""
    n, grid = prod(shape), "" if len(shape) == 1 else f"(N, {', '.join(map(str, shape))}) or "
    rule = f"{what} must be whole numbers {grid}(N, {n}) from 0 to {codebook_size - 1}"
    array = to_array(given, rule)
    if array.dtype.kind not in "iu" or array.shape[1:] not in (shape, (n,)) or not len(array):
        raise UserError(f"{rule}; got {array.dtype} {array.shape}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= codebook_size:
        raise UserError(f"{rule}; got numbers from {low} to {high}")
    return array.reshape(len(array), n).astype(np.int32)


def read_mask(given: Any, size: tuple[int, int], grid: tuple[int, int], n: int) -> Array:
    """Tokens to sample (N, h * w) bool, from a mask in pixels: bool (H, W) for all pictures or (N, H, W), or
    a PIL image. True or white pixels are filled. A token is sampled if any of its pixels is."""
    H, W = size
    rule = f"mask must be bool ({H}, {W}) or (N, {H}, {W}), or a PIL image of mode '1' or 'L'"
    if isinstance(given, Image.Image):
        if given.mode not in ("1", "L"):
            raise UserError(f"{rule}; got an image of mode '{given.mode}': convert it with .convert('L')")
        given = np.asarray(given.convert("L")) > 127
    array = to_array(given, rule)
    if array.dtype != bool:
        raise UserError(f"{rule}; got {array.dtype} {array.shape}: make it bool, for example mask > 0")
    array = array[None] if array.ndim == 2 else array
    if array.shape[1:] != size or len(array) not in (1, n):
        raise UserError(f"{rule}; got {array.shape} for {n} pictures")
    return np.broadcast_to(unknown_tokens(array, grid, "mask"), (n, grid[0] * grid[1]))


def read_token_mask(given: Any, length: int, n: int, *, each: str) -> Array:
    """Tokens to sample (N, L) bool of a sequence, from bool (L,) for all examples or (N, L); `each` says what
    a token stands for."""
    rule = f"mask must be bool ({length},) or (N, {length}), one value per {each}"
    array = np.atleast_2d(to_array(given, rule))
    if array.dtype != bool or array.shape[1:] != (length,) or len(array) not in (1, n):
        raise UserError(f"{rule}; got {array.dtype} {array.shape} for {n} examples")
    return np.broadcast_to(array, (n, length))


def unknown_tokens(mask: Array, grid: tuple[int, int], where: str) -> Array:
    """Which tokens (N, h * w) a mask (N, H, W) touches; a `UserError` if a picture has none."""
    unknown = np.zeros((len(mask), *grid), bool)
    n, rows, columns = np.nonzero(mask)
    unknown[n, rows * grid[0] // mask.shape[1], columns * grid[1] // mask.shape[2]] = True
    if not unknown.any((1, 2)).all():
        raise UserError(f"{where} has no True or white pixel: nothing would be filled")
    return unknown.reshape(len(mask), -1)


def check_names(given: Collection[str], known: Sequence[str], what: str, also: Sequence[str] = ()) -> None:
    """Raise a `UserError` for the first unknown name, with the most similar one of those known here and
    `also` elsewhere."""
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), [*also, *known]) or f"; known: {', '.join(known) or 'none'}"
            raise UserError(f"{what} '{name}' is unknown{hint}")


def check_lengths(rows: Mapping[str, Any]) -> int:
    """The number of rows of a batch's arrays; a `UserError` if they differ or there are none."""
    if not rows:
        raise UserError("the batch is empty: it has no arrays")
    lengths = {name: len(array) for name, array in rows.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise UserError(f"arrays of a batch must have the same number of rows: {counts}")
    n = next(iter(lengths.values()))
    if not n:
        raise UserError(f"the batch is empty: its {', '.join(rows)} have no rows; give at least one example")
    return n


def read_count(given: Any, what: str, *, low: int = 1, high: float = LARGEST_COUNT) -> int:
    """A whole number of at least `low` and at most `high`."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < low:
        raise UserError(f"{what} must be a whole number of at least {low}, not {quoted(given)}")
    if given > high:
        raise UserError(f"{what} must be at most {high}, not {quoted(given)}")
    return int(given)


def read_seed(given: Any) -> int:
    """A seed, a whole number of at least 0."""
    return read_count(given, "seed", low=0, high=inf)


def read_flag(given: Any, what: str) -> bool:
    """True or False; a text such as 'no' is neither."""
    if not isinstance(given, bool | np.bool_):
        raise UserError(f"{what} must be True or False, not {quoted(given)}")
    return bool(given)


def to_plain(given: Any) -> Any:
    """Python's numbers and lists for numbers and arrays of numpy and of either framework, also inside lists;
    anything else stays as it is."""
    if hasattr(given, "tolist"):
        return given.tolist()
    return [to_plain(item) for item in given] if isinstance(given, list | tuple) else given


def is_number(given: Any, low: float, high: float) -> bool:
    """Whether this is a number of Python, no boolean, from `low` to `high`."""
    return isinstance(given, int | float) and not isinstance(given, bool) and low <= given <= high


def to_array(given: Any, rule: str) -> Array:
    """A numpy array from an array of any framework or nested lists of numbers."""
    if hasattr(given, "detach"):  # a PyTorch tensor, which may require gradients or lie on a GPU
        given = given.detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{rule}; got {_name(given)}, which is not an array ({error})") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"{rule}; got {_name(given)}")
    return array


def _name(given: Any) -> str:
    """A description of an input, for a message."""
    if isinstance(given, str):
        return f"the text {given[:40]!r}"
    if isinstance(given, list | tuple):
        kinds = sorted({type(item).__name__ for item in given})
        return f"{kind_of(given)} of {' and '.join(kinds)}" if kinds else f"an empty {type(given).__name__}"
    return f"an array of {given.dtype}" if isinstance(given, np.ndarray) else kind_of(given)


def _rule(shape: tuple[int, ...], dtype: type[np.unsignedinteger]) -> str:
    axes = ", ".join(["N", *map(str, shape[:-1])])
    channels = "[, 1]" if shape[-1] == 1 else f", {shape[-1]}"
    images = "PIL images, " if len(shape) == 3 else ""
    return f"{images}{np.dtype(dtype).name} ({axes}{channels}), or floats in [0, 1] of that shape"


def _from_images(images: Sequence[Any], shape: tuple[int, ...], rule: str, what: str) -> Array:
    if len(shape) != 3:
        raise UserError(f"{rule}; got PIL images")
    (H, W, channels), mode = shape, _MODES.get(shape[2], "")
    for i, image in enumerate(images):
        if image.mode != mode:
            raise UserError(
                f"{what}: image {i} is of mode '{image.mode}', the model takes '{mode}': convert it with "
                f".convert('{mode}')"
            )
        if image.size != (W, H):
            raise UserError(
                f"{what}: image {i} is {image.width}x{image.height}, the model takes {W}x{H}: resize it with "
                f".resize(({W}, {H}))"
            )
    return np.stack([np.asarray(image, np.uint8).reshape(H, W, channels) for image in images])


def _from_floats(array: Array, rule: str, dtype: type[np.unsignedinteger]) -> Array:
    if not np.isfinite(array).all():
        raise UserError(f"{rule}; got {array.dtype} {array.shape} with values that are not finite")
    low, high = float(array.min()), float(array.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = (
            "; map them to [0, 1] with (x + 1) / 2"
            if -1 - _ROUNDING <= low < 0 and high <= 1 + _ROUNDING
            else ""
        )
        hint = "; divide by 255, or give uint8" if low >= 0 and high <= 255 else hint
        raise UserError(f"{rule}; got {array.dtype} {array.shape} from {low:g} to {high:g}{hint}")
    highest = np.iinfo(dtype).max
    return np.rint(array.clip(0, 1).astype(np.float64) * highest).astype(dtype)


def _hint_of_shape(array: Array, shape: tuple[int, ...]) -> str:
    if not array.size:
        return ": it is empty"
    channels_first = (shape[-1], *shape[:-1])
    if array.shape[1:] == channels_first:
        return ": put the channels last"
    if array.shape in (shape, shape[:-1]):
        return ": add the axis N, for example x[None]"
    return ""


def _hint_of_values(array: Array, dtype: type[np.unsignedinteger]) -> str:
    """How to convert integers of another type, or booleans."""
    name = np.dtype(dtype).name
    if array.dtype == bool:
        return f": give 0 and {np.iinfo(dtype).max} in {name}, or 0. and 1."
    fits = array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= np.iinfo(dtype).max
    return f": give them as {name}" if fits else ""
