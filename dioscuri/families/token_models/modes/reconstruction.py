"""Reconstruction: pictures encoded to tokens and decoded, an upper bound for any prior."""

from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.descriptors import describe
from dioscuri.data.texts import DECODER_TEXT
from dioscuri.errors import UserError
from dioscuri.families.token_models.checks import checked_split
from dioscuri.families.token_models.drawing import decoded
from dioscuri.metrics.psnr import psnr
from dioscuri.metrics.ssim import ssim
from dioscuri.outputs.examples import batches, chosen_indices
from dioscuri.outputs.pictures import ORIGINALS, above, save_grid, save_picture
from dioscuri.outputs.reports import write_report
from dioscuri.outputs.settings import output_folder


def reconstruct(context: Context, _plan: Any, checkpoint: Checkpoint) -> None:
    """Write `reconstructed/image-<i>.png` for the first `synthesis.n_samples` pictures of a split, a sheet
    with the originals above them, and `report.json` with PSNR in decibels and SSIM."""
    options, data = context.hparams.synthesis, context.hparams.data
    if describe(data.dataset_source).tokens:
        raise UserError(f"[data] '{data.dataset_source}' holds no pictures: name some by data.dataset_source")
    pictures = checked_split(context, "test")
    split = options.split or "test"
    output = output_folder(context, checkpoint, context.directory.images, "reconstructed", split=split)
    originals, results = [], []
    todo = batches(context, pictures, chosen_indices(context, pictures), "reconstruction")
    for index, batch in enumerate(todo):
        tokens = context.engine.run(
            "encode", {"image": batch["image"]}, ema=options.load_ema_weights, step=index
        )["tokens"]
        originals.append(batch["image"][batch["valid"]])
        results.append(decoded(context, tokens, batch.get(DECODER_TEXT))[batch["valid"]])
    known, made = np.concatenate(originals), np.concatenate(results)
    quality = {"psnr": float(psnr(known, made).mean()), "ssim": float(ssim(known, made).mean())}
    if context.writes:
        folder = output.path
        for i, picture in enumerate(made):
            save_picture(folder, f"image-{i:04d}", picture)
        write_report(context, folder, {"pictures": len(made), **quality})
        sheet = save_grid(folder / "contact-sheet.png", above(known[:32], made[:32]), ORIGINALS)
        context.say(
            f"{len(made)} pictures in {folder}; PSNR {quality['psnr']:.2f} dB, SSIM {quality['ssim']:.4f}"
        )
        context.say(f"originals above reconstructions: {sheet}")
    output.finish(len(made))
