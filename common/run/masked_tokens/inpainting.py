"""Inpainting: tokens of a part of pictures are masked and drawn anew, the others stay."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.checkpoint.store import Checkpoint
from common.data import pipeline
from common.errors import UserError
from common.hparams.families.maskgit import HParams
from common.plans.transformer_plan import TransformerPlan
from common.run.context import Context
from common.run.engine import Array
from common.run.masked_tokens.drawing import chosen_classes, pictures_of
from common.run.masked_tokens.evaluation import examples
from common.run.pictures import GROUND, in_rows, save_grid, save_picture
from common.run.progress import tracked
from common.run.synthesis.pictures import chosen_split

N_COLUMNS = 8


def inpaint(context: Context, plan: TransformerPlan, _checkpoint: Checkpoint) -> None:
    """Write `inpainted/image-<i>.png` of the first `synthesis.n_samples` pictures of a split, and a sheet:
    originals, what was known of them, and what was made of that.

    A picture's own class is asked for, or those of `synthesis.classes` in turn.
    """
    options, pictures = context.hparams.synthesis, chosen_split(context, "test")
    unknown = unknown_tokens(context.hparams, plan)
    n, size = min(options.n_samples, len(pictures)), options.batch_size
    batches = pipeline.evaluation_batches(pictures, context.hparams, batch_size=size, indices=np.arange(n))
    rows: list[tuple[Array, Array, Array]] = []
    for index, batch in enumerate(tracked(batches, "inpainting", -(-n // size), shown=context.writes)):
        given = examples(batch) | {"unknown": np.tile(unknown, (size, 1))}
        if options.classes:
            classes = chosen_classes(context.hparams)
            given["label"] = classes[(index * size + np.arange(size)) % len(classes)]
        made = context.engine.run("inpaint", given, ema=options.load_ema_weights, step=index)
        original, valid = pictures_of(context, batch), batch["valid"]
        rows.append((original[valid], _known(original, unknown)[valid], made["image"][valid]))
    originals, known, filled = (np.concatenate(part) for part in zip(*rows, strict=True))
    if context.writes:
        folder = context.directory.images / "inpainted"
        for i, picture in enumerate(filled):
            save_picture(folder, f"image-{i:04d}", picture)
        groups = zip(*(in_rows(part, N_COLUMNS) for part in (originals, known, filled)), strict=True)
        sheet = save_grid(folder / "contact-sheet.png", [row for group in groups for row in group])
        context.say(f"{len(filled)} pictures in {folder}; originals, the known part, what it became: {sheet}")


def unknown_tokens(hparams: HParams, plan: TransformerPlan) -> Array:
    """Which tokens (L,) are drawn anew; a `UserError` where that is none, or lies outside the picture."""
    options, side = hparams.synthesis, plan.grid
    if options.mask_path:
        unknown = _read_mask(Path(options.mask_path), side)
    else:
        top, left, height, width = options.inpaint_box
        if not any(options.inpaint_box):
            top = left = side // 4
            height = width = -(-side // 2)
        if not (height and width) or top + height > side or left + width > side:
            raise UserError(
                f"[synthesis] inpaint_box {options.inpaint_box} is empty or reaches out of the {side}x{side} "
                "tokens: top, left, height and width must fit"
            )
        unknown = np.zeros((side, side), bool)
        unknown[top : top + height, left : left + width] = True
    return unknown.reshape(-1)


def _read_mask(path: Path, side: int) -> Array:
    """Tokens (h, w) whose part of a mask is more white than black."""
    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX))
    except (OSError, ValueError) as error:
        raise UserError(f"[synthesis] mask_path {path} cannot be read as a picture ({error})") from error
    unknown: Array = grey > 127
    if not unknown.any():
        raise UserError(f"[synthesis] mask_path {path} is nowhere white: nothing would be filled")
    return unknown


def _known(pictures: Array, unknown: Array) -> Array:
    """Pictures (B, H, W, C), grey where tokens (L,) are unknown."""
    _, H, W, _ = pictures.shape
    side = round(len(unknown) ** 0.5)
    area = unknown.reshape(side, side).repeat(H // side, 0).repeat(W // side, 1)
    return np.where(area[None, :, :, None], np.uint8(GROUND), pictures)
