"""Reconstruction: pictures encoded to tokens and decoded, and the distance to the originals."""

from pathlib import Path

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.vqgan.modes.distance import ReconstructionDistance
from dioscuri.families.vqgan.modes.quality import QualitySum, network_inputs
from dioscuri.families.vqgan.perceptual import distance_name
from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.outputs.examples import N_ON_SHEET, batches, chosen_indices, chosen_split
from dioscuri.outputs.pictures import ORIGINALS, above, save_grid, save_picture
from dioscuri.outputs.reports import write_report
from dioscuri.outputs.settings import output_folder


def reconstruct(context: Context, plan: TokenizerPlan, checkpoint: Checkpoint) -> None:
    """Write `reconstructed/image-<i>.png` (and `target-<i>.png`), a sheet and the numbers."""
    options = context.hparams.synthesis
    split = options.split or "test"
    output = output_folder(context, checkpoint, context.directory.images, "reconstructed", split=split)
    folder, pictures = output.path, chosen_split(context, "test")
    total = QualitySum(plan.codebook_size, distance_name(context.hparams.loss))
    distance = ReconstructionDistance(context) if options.extractor else None
    sheet: list[tuple[Array, Array]] = []
    todo = batches(context, pictures, chosen_indices(context, pictures), "reconstruction")
    for index, batch in enumerate(todo):
        made = context.engine.run(
            "reconstruct", network_inputs(batch), ema=options.load_ema_weights, step=index
        )
        valid = batch["valid"]
        total.add(batch["image"], made, valid)
        target, drawn = batch["image"][valid], made["image"][valid]
        if distance is not None:
            distance.add(target, drawn)
        if sum(len(pictures) for pictures, _ in sheet) < N_ON_SHEET:
            sheet.append((target, drawn))
        if context.writes:
            _save(context, folder, batch["index"][valid], target, drawn)
    quality = total.mean()
    distances = {} if distance is None else {distance.name: distance.value()}
    context.say(f"{quality.n} pictures: {quality}" + "".join(f", {k} {v:.4g}" for k, v in distances.items()))
    if context.writes:
        results = {"step": checkpoint.step, "pictures": quality.n, **quality.as_dict(), **distances}
        write_report(context, folder, results)
        originals, others = (np.concatenate(batches)[:N_ON_SHEET] for batches in zip(*sheet, strict=True))
        path = save_grid(folder / "contact-sheet.png", above(originals, others), ORIGINALS)
        context.say(f"pictures in {folder}; originals above reconstructions: {path}")
    output.finish(quality.n)


def _save(context: Context, folder: Path, indices: Array, targets: Array, drawn: Array) -> None:
    for index, target, picture in zip(indices, targets, drawn, strict=True):
        save_picture(folder, f"image-{index:04d}", picture)
        if context.hparams.synthesis.save_target_in_reconstruction:
            save_picture(folder, f"target-{index:04d}", target)
