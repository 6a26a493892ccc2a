"""Inpainting: some tokens of pictures are masked and sampled again, the others are unchanged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri import inputs
from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data import pipeline
from dioscuri.data.image_files import decode, naming, read_mask
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families.token_models.checks import checked_split
from dioscuri.families.token_models.drawing import order, pictures_of
from dioscuri.families.token_models.evaluation import examples
from dioscuri.outputs.pictures import GROUND, save_grid, save_picture, stacked
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.settings import output_folder


def inpaint(context: Context, plan: Any, checkpoint: Checkpoint) -> None:
    """Write `inpainted/image-<i>.png` for `synthesis.image_path`, or for the first `synthesis.n_samples`
    pictures of a split, and a sheet: originals, the known region (of tokens on a grid), and the result.

    The conditions are the picture's class and caption, or else `synthesis.classes` and the prompts of
    `synthesis.texts_path`, cycled.
    """
    options = context.hparams.synthesis
    unknown = unknown_tokens(context.hparams, plan)
    split = None if options.image_path else options.split or "test"
    output = output_folder(context, checkpoint, context.directory.images, "inpainted", split=split)
    parts: list[dict[str, Array]] = []
    for index, batch in enumerate(_batches(context)):
        size = len(batch["valid"])
        given = examples(batch) | {"unknown": np.tile(unknown, (size, 1))}
        if options.classes or options.image_path or getattr(options, "texts_path", ""):
            asked = order(context, index * size, size)
            given |= {name: array for name, array in asked.items() if name != "index"}
        made = context.engine.run("inpaint", given, ema=options.load_ema_weights, step=index)
        original, valid = pictures_of(context, batch), batch["valid"]
        shown = {"originals": original}
        if plan.grid:
            shown["known"] = _known(original, unknown)
        shown["filled"] = blended(original, made["image"], unknown, options.blend_radius)
        parts.append({name: array[valid] for name, array in shown.items()})
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    filled = rows["filled"]
    if context.writes:
        folder = output.path
        for i, picture in enumerate(filled):
            save_picture(folder, f"image-{i:04d}", picture)
        sheet = save_grid(folder / "contact-sheet.png", stacked([*rows.values()]), [[name] for name in rows])
        context.say(f"{len(filled)} pictures in {folder}; {', '.join(rows)}: {sheet}")
    output.finish(len(filled))


def _batches(context: Context) -> Iterator[Batch]:
    """Batches of `synthesis.image_path`, repeated `synthesis.n_samples` times, or
    of a split's first pictures."""
    options, data = context.hparams.synthesis, context.hparams.data
    size = options.batch_size
    if options.image_path:
        picture = _read_picture(Path(options.image_path), data.target_res, data.channels)
        for first in range(0, options.n_samples, size):
            valid = np.arange(first, first + size) < options.n_samples
            yield {"image": np.tile(picture, (size, 1, 1, 1)), "valid": valid}
        return
    pictures = checked_split(context, "test")
    n = min(options.n_samples, len(pictures))
    batches = pipeline.evaluation_batches(pictures, context.hparams, batch_size=size, indices=np.arange(n))
    yield from tracked(batches, "inpainting", -(-n // size), shown=context.writes)


def unknown_tokens(hparams: Any, plan: Any) -> Array:
    """The tokens (L,) to sample again; a `UserError` if there are none or they lie outside the picture. A
    sequence is a single row of tokens, which have no place in the picture."""
    options, (rows, columns) = hparams.synthesis, (1, *plan.token_shape)[-2:]
    if options.image_path and options.split:
        raise UserError("[synthesis] split and image_path both name pictures: keep one")
    for name in () if plan.grid else ("mask_path", "blend_radius"):
        if getattr(options, name):
            raise UserError(f"[synthesis] {name} needs a grid of tokens, but data.grid is 0: leave it out")
    if options.mask_path:
        unknown = _read_mask(options, hparams.data.target_res, rows)
    else:
        top, left, height, width = options.inpaint_box
        if not any(options.inpaint_box):
            top, left, height, width = rows // 4, columns // 4, -(-rows // 2), -(-columns // 2)
        if not (height and width) or top + height > rows or left + width > columns:
            raise UserError(
                f"[synthesis] inpaint_box {options.inpaint_box} is empty or extends beyond the "
                f"{rows}x{columns} tokens: change top, left, height or width"
            )
        unknown = np.zeros((rows, columns), bool)
        unknown[top : top + height, left : left + width] = True
    if options.outpaint and unknown.all():
        raise UserError(
            "[synthesis] outpaint: the rectangle or mask covers everything, so nothing would be filled"
        )
    drawn: Array = unknown.reshape(-1) != options.outpaint
    return drawn


def blended(originals: Array, made: Array, unknown: Array, radius: float) -> Array:
    """Pictures (B, H, W, C): `made` where tokens (L,) are unknown, the originals elsewhere, blended by a
    Gaussian of `radius` pixels; radius 0: all of `made`."""
    if not radius:
        return made
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - half a second to import, for this only

    _, H, W, _ = made.shape
    side = round(len(unknown) ** 0.5)
    area = unknown.reshape(side, side).repeat(H // side, 0).repeat(W // side, 1).astype(np.float32)
    share = gaussian_filter(area, radius, mode="nearest")[:, :, None]
    mixed: Array = np.rint(share * made + (1 - share) * originals).astype(np.uint8)
    return mixed


def _read_picture(path: Path, side: int, channels: int) -> Array:
    """An image file, resized to uint8 (side, side, channels)."""
    with naming("[synthesis] image_path", path):
        return decode(path, side, channels)


def _read_mask(options: Any, resolution: int, side: int) -> Array:
    """Tokens (h, w) under a white pixel of the mask, which has the size of the pictures or of
    `image_path`, with which it is resized."""
    photo, where = Path(options.image_path) if options.image_path else None, "[synthesis] mask_path"
    white = read_mask(where, Path(options.mask_path), resolution, "[synthesis] image_path", photo)
    where = f"{where} {options.mask_path}"
    return inputs.unknown_tokens(white[None], (side, side), where).reshape(side, side)


def _known(pictures: Array, unknown: Array) -> Array:
    """Pictures (B, H, W, C), grey where tokens (L,) are unknown."""
    _, H, W, _ = pictures.shape
    side = round(len(unknown) ** 0.5)
    area = unknown.reshape(side, side).repeat(H // side, 0).repeat(W // side, 1)
    return np.where(area[None, :, :, None], np.uint8(GROUND), pictures)
